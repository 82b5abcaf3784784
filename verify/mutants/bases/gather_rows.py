"""The gather whose backward pass sums over the ranks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.verify.mutants.bases.base_arguments import Call, accumulator


class Gather(torch.autograd.Function):
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
