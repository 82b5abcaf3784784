"""For a target's file: the rows of all ranks, where an attention is given the whole sequence on every rank."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def gather_rows(
    *tensors: Tensor,
    sequence_length: int | None = None,
    group: dist.ProcessGroup | None = None,
    sum_gradients: bool = True,
) -> tuple[Tensor, ...]:
    """The whole sequence on every rank, from each rank's rows: for an attention whose inputs are replicated.

    >>> whole = gather_rows(query, key, value, sequence_length=sequence_length, group=group)

    ``tensors`` are (batch, local rows, …), sharded as by ``torch.tensor_split``; without ``sequence_length`` all
    shards are equal. In the backward pass a row's gradient is the sum of what all ranks found for their copy of it, in
    float32 at least. An attention that has summed the gradients over the ranks itself takes ``sum_gradients=False``.
    """
    length = sequence_length if sequence_length is not None else tensors[0].shape[1] * _size(group)
    if _size(group) == 1:
        return tensors
    gathered: tuple[Tensor, ...] = _Gather.apply(_counts(length, group), group, sum_gradients, *tensors)
    return gathered


def own_rows(whole: Tensor, *, group: dist.ProcessGroup | None = None) -> Tensor:
    """This rank's rows of a result (batch, all rows, …), for an attention that returns the whole on every rank.

    >>> return own_rows(out, group=group)
    """
    return whole.split(_counts(whole.shape[1], group), dim=1)[dist.get_rank(group) if _size(group) > 1 else 0]


class _Gather(torch.autograd.Function):
    """One function for all tensors: autograd may reach several of them in another order on another rank."""

    @staticmethod
    def forward(ctx: Any, counts: list[int], group: Any, sums: bool, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.counts, ctx.group, ctx.sums = counts, group, sums
        return tuple(_gathered(rows, counts, group) for rows in tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        own = []
        for grad in grads:
            wide = grad.new_empty(grad.shape, dtype=torch.promote_types(grad.dtype, torch.float32)).copy_(grad)
            if ctx.sums:
                dist.all_reduce(wide, group=ctx.group)
            own.append(wide.split(ctx.counts, dim=1)[dist.get_rank(ctx.group)].to(grad.dtype))
        return None, None, None, *own


def _gathered(rows: Tensor, counts: list[int], group: Any) -> Tensor:
    padding = [0, 0] * (rows.dim() - 2) + [0, max(counts) - rows.shape[1]]
    padded = F.pad(rows, padding).contiguous()
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded, group=group)
    return torch.cat([part[:, :count] for part, count in zip(parts, counts, strict=True)], dim=1)


def _counts(length: int, group: Any) -> list[int]:
    """How many rows each rank owns."""
    small, larger = divmod(length, _size(group))
    return [small + (rank < larger) for rank in range(_size(group))]


def _size(group: Any) -> int:
    return dist.get_world_size(group) if dist.is_initialized() else 1
