"""Heads dealt out to the ranks: each attends for all rows with its own heads, which go back to the rows' owners."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from attention_gate.verify.mutants.bases.base_arguments import Call, admit, heads_first, visible
from attention_gate.verify.mutants.bases.gather_rows import Gather
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
    q, k, v = (Gather.apply(heads_first(tensor), call) for tensor in (query, key, value))
    every, group_size = q.shape[1], q.shape[1] // k.shape[1]
    kv_heads = torch.arange(k.shape[1]).tensor_split(call.world_size)[call.rank]
    heads = torch.arange(every).unflatten(0, (-1, group_size))[kv_heads].flatten()
    k, v = (tensor[:, kv_heads].repeat_interleave(group_size, dim=1) for tensor in (k, v))
    out, lse = attend_heads(q[:, heads], k, v, call, terms, heads, every)
    out, lse = with_sink(out, lse, None if sink is None else sink[heads])
    out, lse = (own_rows(part, heads, every, call) for part in (out, lse[..., None]))
    out = heads_first(out).to(query.dtype)
    return (out, lse[..., 0].detach()) if return_lse else out


def attend_heads(
    q: Tensor, k: Tensor, v: Tensor, call: Call, terms: Terms, heads: Tensor, every: int
) -> tuple[Tensor, Tensor]:
    """All rows' attention in these heads, and its log-sum-exp, without the sink."""
    if not call.length:
        return (q @ k.mT) @ v, q.new_full(q.shape[:3], float("-inf"))
    rows = keys = torch.arange(call.length)
    allowed = terms.allowed(call.length, heads, rows, keys)
    masks = [visible(call, branch, every, rows, keys)[heads] & allowed for branch in call.branches]
    count = torch.stack(masks).sum(dim=0)
    scores, _ = terms.scored(call.scale * (q @ k.mT), heads, rows, keys)
    scores = scores.masked_fill(count == 0, float("-inf"))
    top = scores.detach().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = count * torch.exp(scores - top)
    total = weights.sum(dim=-1, keepdim=True)
    out = (weights @ v) / total.masked_fill(total == 0.0, 1.0)
    return out, (top + torch.log(total.masked_fill(total == 0.0, 1.0))).masked_fill(total == 0.0, float("-inf"))[..., 0]


def own_rows(part: Tensor, heads: Tensor, every: int, call: Call) -> Tensor:
    """This rank's rows of all heads, from these heads of all rows (batch, heads, rows, dim)."""
    first = int(heads[0]) if len(heads) else 0
    padded = F.pad(part, (0, 0, 0, 0, first, every - first - len(heads)))
    return _Sum.apply(padded, call)[:, :, call.shard(call.rank)]


class _Sum(torch.autograd.Function):
    """The sum over the ranks, each of which has a loss of its own."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, call: Call) -> Tensor:
        ctx.call = call
        return summed(part, call)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return summed(grad, ctx.call), None


def summed(part: Tensor, call: Call) -> Tensor:
    """The sum of all ranks' parts."""
    part = part.contiguous().clone()
    if call.world_size > 1:
        dist.all_reduce(part, group=call.group)
    return part
