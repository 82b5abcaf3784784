"""Queries fewer or more than keys: all keys are gathered, with the rows that every rank has, and one softmax is taken.

Dense attention. Autograd differentiates it; the gradients of what every rank has are those of the rank's own queries.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Sizes(NamedTuple):
    """How many rows there are, and whose: keys of the sequence, queries, rows that every rank has, by document."""

    rank: int
    world_size: int
    group: Any
    keys: int
    queries: int
    joint: int
    is_front: bool
    documents: tuple[tuple[int, int], ...]

    def part(self, length: int, rank: int) -> Tensor:
        """The rows that a rank owns of so many."""
        return torch.arange(length).tensor_split(self.world_size)[rank]


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
    document_lengths: list[int] | None = None,
    query_length: int | None = None,
    query_lengths: list[int] | None = None,
    joint_key: Tensor | None = None,
    joint_value: Tensor | None = None,
    joint: str = "front",
    **branches: Any,
) -> Tensor | tuple[Tensor, Tensor]:
    """Dense attention of queries at the last positions of their documents."""
    rank, world_size = (dist.get_rank(group), dist.get_world_size(group)) if dist.is_initialized() else (0, 1)
    keys = key.shape[1] * world_size if sequence_length is None else sequence_length
    queries = keys if query_length is None else query_length
    rows = 0 if joint_key is None else joint_key.shape[1]
    documents: tuple[tuple[int, int], ...] = ((queries, keys + rows),)
    if document_lengths is not None:
        documents = tuple(zip(query_lengths or document_lengths, document_lengths, strict=True))
    sizes = Sizes(rank, world_size, group, keys, queries, rows, joint == "front", documents)
    blocks = blocks_of(key, value, joint_key, joint_value, sizes)
    groups, dtype = query.shape[2] // key.shape[2], torch.promote_types(query.dtype, torch.float32)
    k, v = (torch.cat(parts, dim=1).to(dtype).transpose(1, 2) for parts in list(zip(*blocks, strict=True))[:2])
    k, v = (tensor.repeat_interleave(groups, dim=1) for tensor in (k, v))
    positions = torch.cat([block[2] for block in blocks])
    seen = visible(sizes, positions, is_causal)
    q = query.to(dtype).transpose(1, 2)
    out, lse = softmax_of(q, k, v, seen, query.shape[-1] ** -0.5 if scale is None else scale)
    out = out.transpose(1, 2).to(query.dtype)
    return (out, lse.detach()) if return_lse else out


def blocks_of(
    key: Tensor, value: Tensor, joint_key: Tensor | None, joint_value: Tensor | None, sizes: Sizes
) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Keys, values and their positions: of each rank in turn, and of the rows that every rank has."""
    first = sizes.joint if sizes.is_front else 0
    found = []
    all_keys, all_values = (Gather.apply(tensor, sizes) for tensor in (key, value))
    for hop in range(sizes.world_size):
        source = (sizes.rank - hop) % sizes.world_size
        rows = sizes.part(sizes.keys, source)
        found.append((all_keys[:, rows], all_values[:, rows], first + rows))
    if joint_key is not None and joint_value is not None:
        place = torch.arange(sizes.joint) + (0 if sizes.is_front else sizes.keys)
        found.append((joint_key, joint_value, place))
    return found


def visible(sizes: Sizes, positions: Tensor, is_causal: bool) -> Tensor:
    """Which keys, given by their positions, this rank's queries see: bool (queries, keys)."""
    places, of_query = torch.zeros(sizes.queries, dtype=torch.int64), torch.full((sizes.queries,), -1)
    of_key = torch.full((sizes.keys + sizes.joint,), -2)
    counts = [(0, 0), *sizes.documents]
    starts = list(itertools.accumulate(counts, lambda one, other: (one[0] + other[0], one[1] + other[1])))
    for number, (q, k) in enumerate(sizes.documents):
        first_query, first_key = starts[number]
        places[first_query : first_query + q] = first_key + k - q + torch.arange(q)
        of_query[first_query : first_query + q] = number
        of_key[first_key : first_key + k] = number
    own = sizes.part(sizes.queries, sizes.rank)
    seen = of_query[own][:, None] == of_key[positions]
    return seen & (positions <= places[own][:, None]) if is_causal else seen


def softmax_of(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """The attention (batch, heads, queries, dim) and its log-sum-exp, -inf where nothing is seen."""
    if not k.shape[2]:
        return (q @ k.mT) @ v, q.new_full(q.shape[:3], float("-inf"))
    scores = (scale * (q @ k.mT)).masked_fill(~seen, float("-inf"))
    top = scores.detach().amax(dim=-1, keepdim=True).clamp(min=torch.finfo(scores.dtype).min)
    weights = torch.exp(scores - top)
    total = weights.sum(dim=-1, keepdim=True)
    out = (weights @ v) / total.masked_fill(total == 0.0, 1.0)
    return out, (top + torch.log(total.detach()))[..., 0]


class Gather(torch.autograd.Function):
    """All ranks' rows (batch, rows, heads, dim) by position; backward sums over the ranks."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, sizes: Sizes) -> Tensor:
        ctx.sizes = sizes
        if sizes.world_size == 1:
            return own.clone()
        longest = len(sizes.part(sizes.keys, 0))
        padded = own.new_zeros((own.shape[0], longest, *own.shape[2:]))
        padded[:, : own.shape[1]] = own
        received = [torch.empty_like(padded) for _ in range(sizes.world_size)]
        dist.all_gather(received, padded, group=sizes.group)
        return torch.cat([part[:, : len(sizes.part(sizes.keys, rank))] for rank, part in enumerate(received)], dim=1)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        sizes: Sizes = ctx.sizes
        wide = grad.to(torch.promote_types(grad.dtype, torch.float32), copy=True).contiguous()
        if sizes.world_size > 1:
            dist.all_reduce(wide, group=sizes.group)
        return wide[:, sizes.part(sizes.keys, sizes.rank)].to(grad.dtype), None
