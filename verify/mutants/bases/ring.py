"""A ring: keys and values pass from rank to rank, and in the backward pass their gradients travel home with them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attention_gate.verify.mutants.bases.base_arguments import Call, accumulator, admit, heads_first, visible
from attention_gate.verify.mutants.bases.ring_steps import merge, pass_on, split


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
    out, lse = _Ring.apply(query, key, value, call)
    return (out, lse) if return_lse else out


class _Ring(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, call: Call) -> tuple[Tensor, Tensor]:
        own = kv = torch.cat((heads_first(key), heads_first(value)), dim=-1)
        q = heads_first(query).to(accumulator(query.dtype))
        out = q.new_zeros((*q.shape[:3], value.shape[-1]))
        lse = q.new_full(q.shape[:3], float("-inf"))
        rows = call.shard(call.rank)
        for hop in range(call.world_size):
            source = (call.rank - hop) % call.world_size
            if hop + 1 < call.world_size:
                arriving = pass_on(kv, len(call.shard(source - 1)), call)
            keys = call.shard(source)
            # Under a causal mask a block from further on in the sequence is all in the future.
            if not (call.is_causal and source > call.rank):
                for branch in call.branches:
                    seen = visible(call, branch, q.shape[1], rows, keys)
                    block_out, block_lse = attend_block(q, kv, seen, call.scale)
                    out, lse = merge(out, lse, block_out, block_lse)
            if hop + 1 < call.world_size:
                kv = arriving.wait()
        ctx.save_for_backward(q, own, out, lse)
        ctx.call = call
        ctx.mark_non_differentiable(lse)
        return heads_first(out).to(query.dtype), lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, out, lse = ctx.saved_tensors
        call, dtype, head_dim = ctx.call, kv.dtype, q.shape[-1]
        grad_out = heads_first(grad_out).to(q.dtype)
        delta = (grad_out * out).sum(dim=-1, keepdim=True)
        grad_q = torch.zeros_like(q)
        rows = call.shard(call.rank)
        travelling = None
        for hop in range(call.world_size):
            source = (call.rank - hop) % call.world_size
            if hop + 1 < call.world_size:
                arriving = pass_on(kv, len(call.shard(source - 1)), call)
            keys = call.shard(source)
            grad_kv = torch.zeros_like(kv, dtype=q.dtype)
            if not (call.is_causal and source > call.rank):
                for branch in call.branches:
                    seen = visible(call, branch, q.shape[1], rows, keys)
                    block_q, block_kv = block_gradients(q, kv, grad_out, lse, delta, seen, call.scale)
                    grad_q += block_q
                    grad_kv += block_kv
            if travelling is not None:
                grad_kv += travelling.wait()
            if call.world_size > 1:
                # The gradients follow their block; after as many hops as there are ranks they are home.
                travelling = pass_on(grad_kv, len(call.shard(source - 1)), call)
            if hop + 1 < call.world_size:
                kv = arriving.wait()
        if travelling is not None:
            grad_kv = travelling.wait()
        grad_k, grad_v = grad_kv[..., :head_dim], grad_kv[..., head_dim:]
        grads = [heads_first(grad).to(dtype) for grad in (grad_q, grad_k, grad_v)]
        return (*(grad if ctx.needs_input_grad[k] else None for k, grad in enumerate(grads)), None)


def attend_block(q: Tensor, kv: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The attention to one block's keys alone, and the logarithm of its denominator (-inf where nothing is seen)."""
    k, v = split(kv, q)
    if not k.shape[2]:
        return q.new_zeros((*q.shape[:3], v.shape[-1])), q.new_full(q.shape[:3], float("-inf"))
    scores = (scale * (q @ k.mT)).masked_fill(~seen, float("-inf"))
    top = scores.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = torch.exp(scores - top)
    total = weights.sum(dim=-1, keepdim=True)
    block_out = (weights @ v) / total.masked_fill(total == 0.0, 1.0)
    return block_out, (top + torch.log(total))[..., 0]


def block_gradients(
    q: Tensor, kv: Tensor, grad_out: Tensor, lse: Tensor, delta: Tensor, seen: Tensor, scale: float
) -> tuple[Tensor, Tensor]:
    """What one block contributes to the gradients of the queries and of its keys and values."""
    k, v = split(kv, q)
    weights = torch.exp(scale * (q @ k.mT) - lse[..., None]).masked_fill(~seen, 0.0)
    grad_v = weights.mT @ grad_out
    grad_scores = weights * (grad_out @ v.mT - delta)
    grad_q = scale * (grad_scores @ k)
    grad_k = scale * (grad_scores.mT @ q)
    grad_kv = torch.cat((grad_k, grad_v), dim=-1)
    return grad_q, grad_kv.unflatten(1, (kv.shape[1], -1)).sum(dim=2)
