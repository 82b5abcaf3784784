"""The contract in every style: one rank's part of it, over real process groups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.verify.correct.kernel import Block, Problem, Queries, backward, forward
from tests.verify.correct.simulated import LEAST_OF_HYBRID, by_halves
from tests.verify.correct.style import Style
from tests.verify.correct.travel import Group, visits


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    is_causal: bool = False,
    scale: float | None = None,
    sequence_length: int | None = None,
    group: dist.ProcessGroup | None = None,
    return_lse: bool = False,
    style: Style,
) -> Tensor | tuple[Tensor, Tensor]:
    """This rank's rows of dilated attention, computed in that style; bad arguments are not refused."""
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    problem = Problem(tuple(segment_lengths), tuple(dilation_rates), is_causal, scale)
    ranks = Group(group, sequence_length, query.shape[1])
    way: type[torch.autograd.Function] = _ByRows
    if style.transport == "heads" and key.shape[2] % ranks.size == 0:
        way = _ByHeads
    elif style.transport == "hybrid" and ranks.size >= LEAST_OF_HYBRID:
        way = _ByHalves
    out, lse = way.apply(query, key, value, style, problem, ranks)
    return (out, lse) if return_lse else out


class _ByRows(torch.autograd.Function):
    """Queries stay; keys and values come to them, and their gradients go home."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, style: Style, problem: Problem, ranks: Group):
        asking, blocks = _ByRows.meet(query, key, value, style, ranks)
        out, lse = forward(style, problem, asking, blocks)
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.constants = style, problem, ranks
        ctx.mark_non_differentiable(lse)
        return out.transpose(1, 2).to(query.dtype), lse.clone()

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: Any):
        query, key, value, out, lse = ctx.saved_tensors
        style, problem, ranks = ctx.constants
        asking, blocks = _ByRows.meet(query, key, value, style, ranks)
        dQ, grads = backward(style, problem, asking, blocks, grad_out.transpose(1, 2), out, lse)
        order = visits(style.transport, ranks.rank, ranks.size)
        by_source = {source: torch.cat(pair, dim=-1) for source, pair in zip(order, grads, strict=True)}
        home = ranks.bring_home(by_source, style.transport, query.dtype if style.narrow_travel else None)
        return _results((dQ, *home.split([key.shape[-1], value.shape[-1]], dim=-1)), query.dtype)

    @staticmethod
    def meet(query: Tensor, key: Tensor, value: Tensor, style: Style, ranks: Group) -> tuple[Queries, list[Block]]:
        """This rank's queries, and all ranks' keys and values in the order of its visits."""
        blocks = ranks.collect(torch.cat([key, value], dim=-1).transpose(1, 2).contiguous(), style.transport)
        widths = [key.shape[-1], value.shape[-1]]
        order = visits(style.transport, ranks.rank, ranks.size)
        asking = Queries(query.transpose(1, 2), ranks.positions(ranks.rank), torch.arange(query.shape[2]))
        return asking, [Block(*blocks[source].split(widths, dim=-1), ranks.positions(source)) for source in order]


class _ByHeads(torch.autograd.Function):
    """An all-to-all turns rows of all heads into all rows of some heads, and back (arXiv 2309.14509)."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, style: Style, problem: Problem, ranks: Group):
        asking, block = _ByHeads.meet(query, key, value, ranks)
        out, lse = forward(style, problem, asking, [block])
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.constants = style, problem, ranks
        mine = _to_rows(torch.cat([out, lse.unsqueeze(-1)], dim=-1), ranks)
        own_lse = mine[..., -1].contiguous()
        ctx.mark_non_differentiable(own_lse)
        return mine[..., :-1].transpose(1, 2).to(query.dtype), own_lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: Any):
        query, key, value, out, lse = ctx.saved_tensors
        style, problem, ranks = ctx.constants
        asking, block = _ByHeads.meet(query, key, value, ranks)
        dO = _to_heads(grad_out, ranks)
        dQ, [(dK, dV)] = backward(style, problem, asking, [block], dO, out, lse)
        return _results([_to_rows(grad, ranks) for grad in (dQ, dK, dV)], query.dtype)

    @staticmethod
    def meet(query: Tensor, key: Tensor, value: Tensor, ranks: Group) -> tuple[Queries, Block]:
        """All rows of this rank's heads."""
        positions = torch.arange(ranks.length)
        count = query.shape[2] // ranks.size
        heads = torch.arange(ranks.rank * count, (ranks.rank + 1) * count)
        query, key, value = (_to_heads(tensor, ranks) for tensor in (query, key, value))
        return Queries(query, positions, heads), Block(key, value, positions)


class _ByHalves(torch.autograd.Function):
    """The numbers of a ring of two whose ranks have shared the heads out (arXiv 2405.07719); here all compute all."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, style: Style, problem: Problem, ranks: Group):
        ctx.save_for_backward(query, key, value)
        ctx.constants = style, problem, ranks
        upstream = query.new_zeros((*query.shape[:3], value.shape[-1]))
        out, lse, *_ = _ByHalves.results((query, key, value, upstream), style, problem, ranks)
        ctx.mark_non_differentiable(lse)
        return out.transpose(1, 2).to(query.dtype), lse

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor, _: Any):
        query, key, value = ctx.saved_tensors
        _, _, *grads = _ByHalves.results((query, key, value, grad_out), *ctx.constants)
        return _results(grads, query.dtype)

    @staticmethod
    def results(own: Sequence[Tensor], style: Style, problem: Problem, ranks: Group) -> list[Tensor]:
        """This rank's part of what is computed of all ranks' rows."""
        gathered = []
        for tensor in own:
            parts = ranks.collect(tensor.transpose(1, 2).contiguous(), style.transport)
            gathered.append(torch.cat([parts[rank] for rank in range(ranks.size)], dim=2))
        positions = [ranks.positions(rank) for rank in range(ranks.size)]
        return by_halves(style, problem, gathered, positions)[ranks.rank]


def _to_heads(rows: Tensor, ranks: Group) -> Tensor:
    """(batch, own rows, all heads, dim) to (batch, own heads, all rows, dim)."""
    parts = dict(enumerate(rows.transpose(1, 2).chunk(ranks.size, dim=1)))
    like = parts[0]
    shape = (len(like), like.shape[1])
    incoming = {p: like.new_empty((*shape, len(ranks.positions(p)), like.shape[3])) for p in range(ranks.size)}
    arrived = ranks.swap(parts, incoming)
    return torch.cat([arrived[peer] for peer in range(ranks.size)], dim=2)


def _to_rows(rows: Tensor, ranks: Group) -> Tensor:
    """(batch, own heads, all rows, dim) to (batch, all heads, own rows, dim)."""
    parts = {peer: rows[:, :, ranks.positions(peer)] for peer in range(ranks.size)}
    arrived = ranks.swap(parts, {peer: torch.empty_like(parts[ranks.rank]) for peer in range(ranks.size)})
    return torch.cat([arrived[peer] for peer in range(ranks.size)], dim=1)


def _results(grads: Sequence[Tensor], dtype: torch.dtype) -> tuple[Tensor | None, ...]:
    return (*(grad.transpose(1, 2).to(dtype) for grad in grads), None, None, None)
