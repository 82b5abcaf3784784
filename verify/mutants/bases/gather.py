"""Gathering: every rank gets all keys and values, attends branch by branch, and autograd differentiates the rest."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attention_gate.verify.mutants.bases.base_arguments import accumulator, admit, heads_first, visible
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
    """The contract's attention."""
    call = admit(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group, unknown)
    q, k, v = (heads_first(tensor) for tensor in (query, key, value))
    q, groups = q.to(accumulator(q.dtype)), q.shape[1] // k.shape[1]
    k, v = (Gather.apply(tensor, call).repeat_interleave(groups, dim=1) for tensor in (k, v))
    rows, keys = call.shard(call.rank), torch.arange(call.length)
    outs, tops, totals = [], [], []
    for branch in call.branches:
        seen = visible(call, branch, q.shape[1], rows, keys)
        branch_out, top, total = attend_branch(q, k, v, seen, call.scale)
        outs.append(branch_out)
        tops.append(top)
        totals.append(total)
    out, lse = mix(outs, tops, totals)
    out = heads_first(out).to(query.dtype)
    return (out, lse.detach()) if return_lse else out


def attend_branch(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """One branch's own attention, the largest score (the lowest number where nothing is seen), the denominator."""
    if not k.shape[2]:  # a sequence without rows; the result must still depend on the inputs for autograd
        return (q @ k.mT) @ v, q.new_zeros(q.shape[:3]), q.new_zeros(q.shape[:3])
    scores = (scale * (q @ k.mT)).masked_fill(~seen, float("-inf"))
    top = scores.detach().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = torch.exp(scores - top)
    total = weights.sum(dim=-1, keepdim=True)
    branch_out = (weights @ v) / total.masked_fill(total == 0.0, 1.0)
    return branch_out, top[..., 0], total[..., 0]


def mix(outs: list[Tensor], tops: list[Tensor], totals: list[Tensor]) -> tuple[Tensor, Tensor]:
    """The branches' mean, weighted by their denominators, and the logarithm of the denominators' sum."""
    top = torch.stack(tops).amax(dim=0)
    parts = [total * torch.exp(own - top) for own, total in zip(tops, totals, strict=True)]
    total = torch.stack(parts).sum(dim=0)
    safe = total.masked_fill(total == 0.0, 1.0)
    out = sum(branch_out * (part / safe)[..., None] for branch_out, part in zip(outs, parts, strict=True))
    return torch.as_tensor(out), top + torch.log(total)
