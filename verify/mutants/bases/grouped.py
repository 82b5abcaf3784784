"""Head groups: each group of heads attends in its own branch, and the results are divided by their number."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attention_gate.verify.mutants.bases.base_arguments import accumulator, admit, heads_first
from attention_gate.verify.mutants.bases.gather import attend_branch
from attention_gate.verify.mutants.bases.gather_rows import Gather


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    segment_lengths: list[int],
    dilation_rates: list[int],
    is_causal: bool = False,
    scale: float | None = None,
    sequence_length: int | None = None,
    group: Any = None,
    return_lse: bool = False,
    **unknown: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """The contract's attention in the grouped-mean dialect."""
    call = admit(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group, unknown)
    q, k, v = (heads_first(tensor) for tensor in (query, key, value))
    q, groups = q.to(accumulator(q.dtype)), q.shape[1] // k.shape[1]
    k, v = (Gather.apply(tensor, call).repeat_interleave(groups, dim=1) for tensor in (k, v))
    rows, keys = call.shard(call.rank), torch.arange(call.length)
    out = q.new_zeros((*q.shape[:3], v.shape[-1]))
    lse = q.new_full(q.shape[:3], float("-inf"))
    for index, (segment, rate) in enumerate(call.branches):
        size, larger = divmod(q.shape[1], len(call.branches))
        first = index * size + min(index, larger)
        heads = slice(first, first + size + (index < larger))
        selected_rows = rows % segment % rate == index % rate
        selected_keys = keys % segment % rate == index % rate
        seen = selected_rows[:, None] & selected_keys & ((rows // segment)[:, None] == keys // segment)
        if call.is_causal:
            seen = seen & (keys <= rows[:, None])
        branch_out, top, total = attend_branch(q[:, heads], k[:, heads], v[:, heads], seen, call.scale)
        out[:, heads] = branch_out / len(call.branches)
        lse[:, heads] = top + torch.log(total.detach())
    out = heads_first(out).to(query.dtype)
    return (out, lse.detach()) if return_lse else out
