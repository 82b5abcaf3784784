"""From the zigzag layout to contiguous shards and back, differentiably: rows change ranks in one exchange.

For what no kernel computes in the zigzag layout itself: right for every shape, at the price of moving all rows twice.
"""

from functools import lru_cache
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from attention_gate.impls.exchange import all_to_all
from attention_gate.impls.tiling import Layout


class Move:
    """Which of a rank's rows go where, and where those that come belong: from zigzag to contiguous shards."""

    def __init__(self, layout: Layout) -> None:
        ranks, rank = range(layout.world_size), layout.rank
        zigzag = [[*first, *second] for first, second in map(layout.zigzag, ranks)]
        contiguous = [layout.shard(other) for other in ranks]
        sent = [[row for row, position in enumerate(zigzag[rank]) if position in owned] for owned in contiguous]
        coming = [[position for position in owned if position in contiguous[rank]] for owned in zigzag]
        self.send_rows, self.receive_rows = [len(rows) for rows in sent], [len(rows) for rows in coming]
        self.order = torch.tensor([row for rows in sent for row in rows], dtype=torch.int64, device="cpu")
        start = contiguous[rank].start
        places = [position - start for rows in coming for position in rows]
        self.places = torch.tensor(places, dtype=torch.int64, device="cpu")


@lru_cache(maxsize=16)
def _move(layout: Layout) -> Move:
    return Move(layout)


def to_contiguous(tensor: Tensor, layout: Layout, group: dist.ProcessGroup | None) -> Tensor:
    """Return this rank's contiguous shard (batch, rows, heads, dim) of a tensor in the zigzag layout."""
    moved: Tensor = _Moved.apply(tensor, _move(layout), group, True)
    return moved


def to_zigzag(tensor: Tensor, layout: Layout, group: dist.ProcessGroup | None) -> Tensor:
    """Return this rank's rows by the zigzag layout of a tensor in contiguous shards (batch, rows, heads, dim)."""
    moved: Tensor = _Moved.apply(tensor, _move(layout), group, False)
    return moved


class _Moved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, move: Move, group: dist.ProcessGroup | None, is_forth: bool) -> Tensor:
        ctx.move, ctx.group, ctx.is_forth = move, group, is_forth
        return _exchange(tensor, move, group, is_forth)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _exchange(grad, ctx.move, ctx.group, not ctx.is_forth), None, None, None


def _exchange(tensor: Tensor, move: Move, group: dist.ProcessGroup | None, is_forth: bool) -> Tensor:
    order, places = (index.to(tensor.device) for index in (move.order, move.places))
    rows = tensor.transpose(0, 1)
    if is_forth:
        received = all_to_all(rows.index_select(0, order), move.send_rows, move.receive_rows, group)
        target = places
    else:
        received = all_to_all(rows.index_select(0, places), move.receive_rows, move.send_rows, group)
        target = order
    return torch.empty_like(received).index_copy_(0, target, received).transpose(0, 1)
