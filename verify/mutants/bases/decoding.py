"""Decoding over shards: every rank has all queries and some of the keys; partial results are merged by their lse.

Dense attention, forward only. Keys are dealt out to the ranks in blocks of ``interleave`` rows.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

#: Rows of a page: a rank's keys end somewhere within their last page, after which others have left theirs.
PAGE = 4


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    sequence_length: int | None = None,
    group: Any = None,
    return_lse: bool = False,
    query_length: int | None = None,
    interleave: int = 1,
    **branches: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Attention of the queries, which are the last positions, to the keys of all ranks."""
    rank, world_size = (dist.get_rank(group), dist.get_world_size(group)) if dist.is_initialized() else (0, 1)
    length = key.shape[1] * world_size if sequence_length is None else sequence_length
    places = length - query.shape[1] + torch.arange(query.shape[1])
    key_cache, value_cache = paged(key), paged(value)
    slots = torch.arange(key_cache.shape[1])
    positions = (slots // interleave * world_size + rank) * interleave + slots % interleave
    seen = (slots < key.shape[1]).expand(len(places), len(slots))
    if is_causal:
        seen = seen & (positions <= places[:, None])
    groups, dtype = query.shape[2] // key.shape[2], torch.promote_types(query.dtype, torch.float32)
    q = query.to(dtype).transpose(1, 2)
    k, v = (cache.to(dtype).transpose(1, 2).repeat_interleave(groups, dim=1) for cache in (key_cache, value_cache))
    out, lse = partial(q, k, v, seen, query.shape[-1] ** -0.5 if scale is None else scale)
    outs, lses = gathered(out, world_size, group), gathered(lse, world_size, group)
    out, lse = merged(outs, lses)
    out = out.transpose(1, 2).to(query.dtype)
    return (out, lse) if return_lse else out


def paged(rows: Tensor) -> Tensor:
    """Rows (batch, rows, heads, dim) in whole pages, at least one; behind them is what others have left there."""
    missing = -rows.shape[1] % PAGE if rows.shape[1] else PAGE
    left = rows.new_full((rows.shape[0], missing, *rows.shape[2:]), 3.0)
    return torch.cat((rows, left), dim=1)


def partial(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The attention to this rank's keys alone (batch, heads, queries, dim), and its log-sum-exp."""
    scores = (scale * (q @ k.mT)).masked_fill(~seen, float("-inf"))
    top = scores.amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = torch.exp(scores - top)
    total = weights.sum(dim=-1, keepdim=True)
    out = (weights @ v) / total.masked_fill(total == 0.0, 1.0)
    return out, (top + torch.log(total))[..., 0]


def gathered(part: Tensor, world_size: int, group: Any) -> Tensor:
    """What every rank found, (ranks, …)."""
    if world_size == 1:
        return part[None]
    parts = [torch.empty_like(part.contiguous()) for _ in range(world_size)]
    dist.all_gather(parts, part.contiguous(), group=group)
    return torch.stack(parts)


def merged(outs: Tensor, lses: Tensor) -> tuple[Tensor, Tensor]:
    """The parts' mean, weighted by their denominators, and the logarithm of the denominators' sum."""
    top = lses.amax(dim=0)
    top = top.masked_fill(top == float("-inf"), 0.0)  # nothing seen by any rank
    weights = torch.exp(lses - top)
    total = weights.sum(dim=0)
    out = (outs * weights[..., None]).sum(dim=0) / total.masked_fill(total == 0.0, 1.0)[..., None]
    return out, top + torch.log(total)
