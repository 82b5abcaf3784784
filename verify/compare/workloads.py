"""What is measured: shapes by name, as rows of one rank, so that they mean the same work on any number of ranks."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """A self-attention of (batch 1, rows of each rank, heads, head_dim); no segment lengths mean the whole sequence."""

    rows: int
    heads: int
    head_dim: int
    is_causal: bool
    segment_lengths: tuple[int, ...] = ()
    dilation_rates: tuple[int, ...] = (1,)
    dtype: str = "bfloat16"

    def lengths(self, world_size: int) -> tuple[int, ...]:
        """The segment lengths on that many ranks, none longer than the sequence."""
        whole = self.rows * world_size
        return tuple(min(length, whole) for length in self.segment_lengths or (whole,))


_LENGTHS, _RATES = (2048, 4096, 8192, 16384, 32768), (1, 2, 4, 8, 16)
_MILLION = tuple(2048 << k for k in range(10)), tuple(1 << k for k in range(10))

WORKLOADS = {
    "tiny": Workload(64, 4, 16, False, dtype="float32"),
    "tiny-causal": Workload(64, 4, 16, True, dtype="float32"),
    "tiny-longnet": Workload(64, 4, 16, False, (16, 64), (1, 4), dtype="float32"),
    "dense-8k": Workload(8192, 32, 128, False),
    "dense-8k-causal": Workload(8192, 32, 128, True),
    "dense-32k": Workload(32768, 32, 128, False),
    "dense-32k-causal": Workload(32768, 32, 128, True),
    "longnet-32k": Workload(32768, 16, 128, False, _LENGTHS, _RATES),
    "longnet-32k-causal": Workload(32768, 16, 128, True, _LENGTHS, _RATES),
    "longnet-spanning": Workload(32768, 16, 128, False, (*_LENGTHS, 65536, 131072), (*_RATES, 16, 16)),
    "longnet-131k": Workload(32768, 16, 128, False, _MILLION[0][:7], _MILLION[1][:7]),
    "longnet-1m": Workload(262144, 16, 128, False, *_MILLION),
    "longnet-1m-of-two": Workload(524288, 16, 128, False, *_MILLION),
}
