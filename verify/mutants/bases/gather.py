"""Gathering: every rank gets all keys and values, attends branch by branch, and autograd differentiates the rest."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.verify.mutants.bases.base_arguments import Call, accumulator, admit, heads_first, visible


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
    k, v = (_Gather.apply(tensor, call).repeat_interleave(groups, dim=1) for tensor in (k, v))
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


class _Gather(torch.autograd.Function):
    """All ranks' rows (batch, heads, rows, dim) by position, to accumulate with; backward sums over the ranks."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, call: Call) -> Tensor:
        ctx.call, ctx.dtype = call, own.dtype
        if call.world_size == 1:
            return own.to(accumulator(own.dtype), copy=True)
        longest = len(call.shard(0))
        padded = own.new_zeros((*own.shape[:2], longest, own.shape[3]))
        padded[:, :, : own.shape[2]] = own
        received = [torch.empty_like(padded) for _ in range(call.world_size)]
        dist.all_gather(received, padded, group=call.group)
        shards = [block[:, :, : len(call.shard(rank))] for rank, block in enumerate(received)]
        return torch.cat(shards, dim=2).to(accumulator(own.dtype))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        call: Call = ctx.call
        grad = grad.contiguous()
        if call.world_size > 1:
            grad = grad.clone()
            dist.all_reduce(grad, group=call.group)
        return grad[:, :, call.shard(call.rank)].to(ctx.dtype), None
