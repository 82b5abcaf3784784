"""A ring that takes the optional terms: keys and values pass from rank to rank, and their gradients travel home."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from attention_gate.verify.mutants.bases.base_arguments import Call, accumulator, admit, heads_first, visible
from attention_gate.verify.mutants.bases.ring_steps import merge, pass_on, split
from attention_gate.verify.mutants.bases.term_scores import Terms, objection_to, stated_by, with_sink


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
    document_lengths: list[int] | None = None,
    window: tuple[int | None, int | None] | None = None,
    mask: Any = None,
    softcap: float | None = None,
    slopes: list[float] | None = None,
    sink: Tensor | None = None,
    **unknown: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """The contract's attention with its optional terms."""
    terms = Terms(document_lengths, window, mask, softcap, slopes, sink)
    call = admit(
        *(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group, unknown),
        objection_to(terms, query),
        stated_by(terms),
    )
    out, lse = _TermRing.apply(query, key, value, call, terms._replace(sink=None))
    out, lse = with_sink(out, lse, sink)
    out = heads_first(out).to(query.dtype)
    return (out, lse.detach()) if return_lse else out


class _TermRing(torch.autograd.Function):
    """Attention without the sink: out (batch, heads, rows, dim) and lse, both to be differentiated."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, call: Call, terms: Terms) -> tuple[Tensor, Tensor]:
        own = kv = torch.cat((heads_first(key), heads_first(value)), dim=-1)
        q = heads_first(query).to(accumulator(query.dtype))
        out = q.new_zeros((*q.shape[:3], value.shape[-1]))
        lse = q.new_full(q.shape[:3], float("-inf"))
        rows, heads = call.shard(call.rank), torch.arange(q.shape[1])
        for hop in range(call.world_size):
            source = (call.rank - hop) % call.world_size
            if hop + 1 < call.world_size:
                arriving = pass_on(kv, len(call.shard(source - 1)), call)
            keys = call.shard(source)
            allowed = terms.allowed(call.length, heads, rows, keys)
            for branch in call.branches:
                seen = visible(call, branch, q.shape[1], rows, keys) & allowed
                if seen.any():
                    block_out, block_lse = attend_seen(q, kv, seen, call.scale, terms, heads, rows, keys)
                    out, lse = merge(out, lse, block_out, block_lse)
            if hop + 1 < call.world_size:
                kv = arriving.wait()
        ctx.save_for_backward(q, own, out, lse)
        ctx.call, ctx.terms = call, terms
        return out, lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, grad_lse: Tensor) -> tuple[Tensor | None, ...]:
        q, kv, out, lse = ctx.saved_tensors
        call, terms, dtype, head_dim = ctx.call, ctx.terms, kv.dtype, q.shape[-1]
        # A change of the lse changes all scores of its row alike, as a change of delta the other way round does.
        delta = (grad_out * out).sum(dim=-1, keepdim=True) - grad_lse[..., None]
        grad_q = torch.zeros_like(q)
        rows, heads = call.shard(call.rank), torch.arange(q.shape[1])
        travelling = None
        for hop in range(call.world_size):
            source = (call.rank - hop) % call.world_size
            if hop + 1 < call.world_size:
                arriving = pass_on(kv, len(call.shard(source - 1)), call)
            keys = call.shard(source)
            grad_kv = torch.zeros_like(kv, dtype=q.dtype)
            allowed_back = terms.allowed(call.length, heads, rows, keys)
            for branch in call.branches:
                seen_back = visible(call, branch, q.shape[1], rows, keys) & allowed_back
                if seen_back.any():
                    of_rows = (grad_out, lse, delta)
                    block_q, block_kv = seen_gradients(q, kv, of_rows, seen_back, call.scale, terms, heads, rows, keys)
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
        return (*(grad if ctx.needs_input_grad[k] else None for k, grad in enumerate(grads)), None, None)


def attend_seen(
    q: Tensor, kv: Tensor, seen: Tensor, scale: float, terms: Terms, heads: Tensor, rows: Tensor, keys: Tensor
) -> tuple[Tensor, Tensor]:
    """The attention to one block's keys alone, and the logarithm of its denominator (-inf where nothing is seen)."""
    k, v = split(kv, q)
    scores, _ = terms.scored(scale * (q @ k.mT), heads, rows, keys)
    scores = scores.masked_fill(~seen, float("-inf"))
    top = scores.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = torch.exp(scores - top)
    total = weights.sum(dim=-1, keepdim=True)
    block_out = (weights @ v) / total.masked_fill(total == 0.0, 1.0)
    return block_out, (top + torch.log(total))[..., 0]


def seen_gradients(
    q: Tensor,
    kv: Tensor,
    of_rows: tuple[Tensor, Tensor, Tensor],
    seen: Tensor,
    scale: float,
    terms: Terms,
    heads: Tensor,
    rows: Tensor,
    keys: Tensor,
) -> tuple[Tensor, Tensor]:
    """What one block contributes to the gradients of the queries and of its keys and values."""
    k, v = split(kv, q)
    grad_out, lse, delta = of_rows
    scores, slope_of_cap = terms.scored(scale * (q @ k.mT), heads, rows, keys)
    weights = torch.exp(scores - lse[..., None]).masked_fill(~seen, 0.0)
    grad_v = weights.mT @ grad_out
    grad_scores = weights * (grad_out @ v.mT - delta) * slope_of_cap
    grad_q = scale * (grad_scores @ k)
    grad_k = scale * (grad_scores.mT @ q)
    grad_kv = torch.cat((grad_k, grad_v), dim=-1)
    return grad_q, grad_kv.unflatten(1, (kv.shape[1], -1)).sum(dim=2)
