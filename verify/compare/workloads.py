"""What is measured: shapes by name, as rows of one rank, so that they mean the same work on any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any


@dataclass(frozen=True)
class Workload:
    """A self-attention of (batch 1, rows of each rank, heads, head_dim); no segment lengths mean the whole sequence.

    ``documents`` are packed ones, each as long as its part of their sum is of the sequence.
    """

    rows: int
    heads: int
    head_dim: int
    is_causal: bool
    segment_lengths: tuple[int, ...] = ()
    dilation_rates: tuple[int, ...] = (1,)
    dtype: str = "bfloat16"
    window: tuple[int | None, int | None] | None = None
    documents: tuple[int, ...] = ()

    @property
    def term_names(self) -> tuple[str, ...]:
        """The optional terms that it has."""
        return (("window",) if self.window else ()) + (("documents",) if self.documents else ())

    def terms(self, world_size: int) -> dict[str, Any]:
        """The optional terms on that many ranks, by the name of the argument."""
        found: dict[str, Any] = {"window": self.window} if self.window else {}
        if self.documents:
            found["document_lengths"] = self.document_lengths(world_size)
        return found

    def document_lengths(self, world_size: int) -> tuple[int, ...]:
        """The lengths of the documents on that many ranks, which add up to the sequence."""
        whole, total = self.rows * world_size, sum(self.documents)
        ends = [whole * weight // total for weight in accumulate(self.documents, initial=0)]
        return tuple(end - start for start, end in pairwise(ends))

    def lengths(self, world_size: int) -> tuple[int, ...]:
        """The segment lengths on that many ranks, none longer than the sequence."""
        whole = self.rows * world_size
        return tuple(min(length, whole) for length in self.segment_lengths or (whole,))


_LENGTHS, _RATES = (2048, 4096, 8192, 16384, 32768), (1, 2, 4, 8, 16)
_UNEQUAL = (9, 3, 31, 5, 17, 2, 11, 23, 7, 4, 13, 41, 6, 19, 8, 25)
_MILLION = tuple(2048 << k for k in range(10)), tuple(1 << k for k in range(10))

WORKLOADS = {
    "tiny": Workload(64, 4, 16, False, dtype="float32"),
    "tiny-causal": Workload(64, 4, 16, True, dtype="float32"),
    "tiny-longnet": Workload(64, 4, 16, False, (16, 64), (1, 4), dtype="float32"),
    "tiny-window": Workload(64, 4, 16, True, dtype="float32", window=(31, 0)),
    "tiny-documents": Workload(64, 4, 16, True, dtype="float32", documents=(5, 2, 9)),
    "dense-8k": Workload(8192, 32, 128, False),
    "dense-8k-causal": Workload(8192, 32, 128, True),
    "dense-32k": Workload(32768, 32, 128, False),
    "dense-32k-causal": Workload(32768, 32, 128, True),
    "window-32k-causal": Workload(32768, 32, 128, True, window=(4095, 0)),
    "documents-32k-causal": Workload(32768, 32, 128, True, documents=_UNEQUAL),
    "longnet-32k": Workload(32768, 16, 128, False, _LENGTHS, _RATES),
    "longnet-32k-causal": Workload(32768, 16, 128, True, _LENGTHS, _RATES),
    "longnet-spanning": Workload(32768, 16, 128, False, (*_LENGTHS, 65536, 131072), (*_RATES, 16, 16)),
    "longnet-131k": Workload(32768, 16, 128, False, _MILLION[0][:7], _MILLION[1][:7]),
    "longnet-1m": Workload(262144, 16, 128, False, *_MILLION),
    "longnet-1m-of-two": Workload(524288, 16, 128, False, *_MILLION),
}
