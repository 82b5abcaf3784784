"""The public function of both implementations: its arguments and what it promises, written once."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.agreement import admit
from attention_gate.impls.arguments import Arguments, split
from attention_gate.impls.autograd import Scheme, attend_by
from attention_gate.impls.compiling import uncompiled

_PROMISE = """

    out = attend(query, key, value, segment_lengths=[2048, 4096], dilation_rates=[1, 2], is_causal=True)

`query` is (batch, local_length, heads, head_dim), `key` (batch, local_length, kv_heads, head_dim), `value` (batch,
local_length, kv_heads, value_dim), heads a multiple of kv_heads, all float64, float32, bfloat16 or float16; out is
(batch, local_length, heads, value_dim) in that dtype. Rank r owns tensor_split(arange(sequence_length), p)[r];
without `sequence_length` all shards are equal. With `layout="zigzag"` it owns parts r and 2p - 1 - r of 2p, with
`layout="document-zigzag"` such parts of each packed document, which `impls.document_zigzag` lists. `scale` defaults to
1 / sqrt(head_dim). With `return_lse` the result is (out, lse), lse (batch, heads, local_length) the natural logarithm
of the softmax denominators, at least float32 and not differentiable.

Optional terms, each off by default and the same on every rank: `window` (left, right), how many positions a query sees
back and ahead, None without bound; `document_lengths`, the rows of packed documents, which see nothing of each other;
`query_length`, the number of queries where it is not that of keys, sharded by itself, and `query_lengths`, the same by
document: queries are the last positions of their document; `mask`, a function of (head, query position, key position),
int64 tensors that broadcast, to booleans; `softcap`; `slopes` (heads,) of ALiBi, taken times the distance from each
score; `sink`, a tensor (heads,) of logits without values; `joint_key` (batch, rows, kv_heads, head_dim) and
`joint_value`, rows that every rank has: they stand before all others (`joint="front"`) or after them ("rear") and count
once. The gradients of what every rank has are those of this rank's queries and sum up over the ranks. They run on plain
products.

Every rank of the group calls this, and backpropagates, in the same order. Bad arguments raise ValueError or TypeError
on every rank, also where only one rank's are bad; so does any option that is not listed here.

LongNet (arXiv 2307.02486), equations 3 to 12, mixed by softmax denominators. """


class Attend(Protocol):
    """The signature of both implementations."""

    def __call__(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        segment_lengths: Sequence[int],
        dilation_rates: Sequence[int],
        is_causal: bool = False,
        scale: float | None = None,
        sequence_length: int | None = None,
        group: dist.ProcessGroup | None = None,
        return_lse: bool = False,
        layout: str = "contiguous",
        **terms: object,
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return this rank's rows of the attention, with `return_lse` also their softmax denominators."""


def attend_function(module: str, scheme: Scheme, summary: str, source: str) -> Attend:
    """Return the function `attend` of a module, which brings rows together by a scheme.

    Its docstring begins with the `summary`, one sentence, and ends with the `source` beside LongNet.
    """

    def attend(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        *,
        segment_lengths: Sequence[int],
        dilation_rates: Sequence[int],
        is_causal: bool = False,
        scale: float | None = None,
        sequence_length: int | None = None,
        group: dist.ProcessGroup | None = None,
        return_lse: bool = False,
        layout: str = "contiguous",
        **terms: object,
    ) -> Any:
        given = segment_lengths, dilation_rates, is_causal, scale, sequence_length, return_lse, layout
        call = admit(module, Arguments(query, key, value, *given, *split(terms)), group)
        out, lse = attend_by(scheme, query, key, value, call)
        return (out, lse) if return_lse else out

    attend.__doc__ = summary + _PROMISE + source
    # As if it were written there: it is pickled, printed and documented by these.
    attend.__module__, attend.__qualname__ = module, "attend"
    return uncompiled(attend)
