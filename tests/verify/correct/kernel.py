"""Attention of some queries to blocks of keys in every style, forward and backward; it knows of no ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from tests.verify.correct import merging
from tests.verify.correct.style import Style

LOG2E = math.log2(math.e)

#: Many rows are cut into no more chunks than this, however few rows a style has in each.
_MOST_CHUNKS = 4


@dataclass(frozen=True)
class Problem:
    """The operator: its branches, mask and scale."""

    segment_lengths: tuple[int, ...]
    dilation_rates: tuple[int, ...]
    is_causal: bool
    scale: float

    def counts(self, heads: Tensor, queries: Tensor, keys: Tensor, branchwise: bool) -> list[Tensor]:
        """How often each query sees each key, (heads, queries, keys): of each branch, or of all together."""
        if not len(queries) or not len(keys):
            masks = torch.zeros((len(self.dilation_rates), len(heads), len(queries), len(keys)), dtype=torch.uint8)
        else:
            masks = _masks(self, int(heads.max()) + 1, int(max(queries.max(), keys.max())) + 1)
            masks = masks[:, heads][:, :, queries][:, :, :, keys]
        return list(masks) if branchwise else [masks.sum(0, dtype=torch.uint8)]


@lru_cache(maxsize=64)
def _masks(problem: Problem, heads: int, length: int) -> Tensor:
    """Whether query i sees key j, (branches, heads, length, length), 0 or 1."""
    i, h = torch.arange(length), torch.arange(heads)[:, None]
    masks = []
    for w, r in zip(problem.segment_lengths, problem.dilation_rates, strict=True):
        chosen = i % w % r == h % r
        masks.append(chosen[:, :, None] & chosen[:, None, :] & (i[:, None] // w == i // w))
    together = torch.stack(masks)
    return (together & (i <= i[:, None]) if problem.is_causal else together).to(torch.uint8)


class Block(NamedTuple):
    """Keys and values (batch, heads, rows, dim) in the inputs' dtype, and the positions of their rows."""

    key: Tensor
    value: Tensor
    positions: Tensor


class Queries(NamedTuple):
    """Queries (batch, heads, rows, head_dim), the positions of their rows and the numbers of their heads."""

    query: Tensor
    positions: Tensor
    heads: Tensor


def forward(
    style: Style, problem: Problem, asking: Queries, blocks: Sequence[Block], dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """The output (batch, heads, rows, value_dim) and the lse (batch, heads, rows), in the accumulator's dtype.

    ``dtype`` is that of the inputs, if they have been widened.
    """
    dtype = dtype or asking.query.dtype
    parts = []
    for start, stop in _chunks(len(asking.positions), style.query_rows):
        some = Queries(asking.query[:, :, start:stop], asking.positions[start:stop], asking.heads)
        pieces = []
        for block in blocks:
            for first, last in _chunks(len(block.positions), style.key_rows):
                piece = Block(*(x[:, :, first:last] for x in block[:2]), block.positions[first:last])
                for counts in problem.counts(some.heads, some.positions, piece.positions, style.branchwise):
                    pieces.append(_piece(style, problem, some, piece, counts, dtype))
        parts.append(_merged(style, dtype, pieces))
    return torch.cat([out for out, _ in parts], dim=2), torch.cat([lse for _, lse in parts], dim=2)


def backward(
    style: Style, problem: Problem, asking: Queries, blocks: Sequence[Block], grad_out: Tensor, out: Tensor, lse: Tensor
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The gradient of the queries, and of each block's keys and values, in the accumulator's dtype."""
    if style.autograd:
        return _walked_back(style, problem, asking, blocks, grad_out)
    dtype = asking.query.dtype
    acc = style.accumulator(dtype)
    dO = grad_out.to(acc)
    D = (dO * (out.to(dtype) if style.round_delta else out).to(acc)).sum(-1, keepdim=True)
    dQ = torch.zeros_like(asking.query, dtype=acc)
    grads = []
    for block in blocks:
        dK, dV = torch.zeros_like(block.key, dtype=acc), torch.zeros_like(block.value, dtype=acc)
        for counts in problem.counts(asking.heads, asking.positions, block.positions, style.branchwise):
            group = asking.query.shape[1] // block.key.shape[1]
            s, base = _scores(style, problem, asking.query, block.key)
            # A query that sees nothing has an lse of -inf and no probabilities.
            shift = torch.where(lse.isneginf(), 0.0, lse).unsqueeze(-1)
            exponent = torch.where(counts > 0, s - shift * LOG2E if base == 2 else s - shift, -torch.inf)
            P = counts * (torch.exp2(exponent) if base == 2 else torch.exp(exponent))
            dS = P * (dO @ _repeated(block.value, group).to(acc).mT - D)
            P = _rounded(P, dtype, style.round_weights)
            dS = _rounded(dS, dtype, style.round_dS)
            of_heads = P.mT @ dO, problem.scale * (dS.mT @ asking.query.to(acc))
            block_dV, block_dK = (_over_groups(_rounded(one, dtype, style.round_heads), group) for one in of_heads)
            dV += _rounded(block_dV, dtype, style.round_blocks)
            dK += _rounded(block_dK, dtype, style.round_blocks)
            dQ += _rounded(problem.scale * (dS @ _repeated(block.key, group).to(acc)), dtype, style.round_blocks)
            dQ = _rounded(dQ, dtype, style.narrow_query_gradient)
        grads.append((dK, dV))
    return dQ, grads


def _walked_back(
    style: Style, problem: Problem, asking: Queries, blocks: Sequence[Block], grad_out: Tensor
) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """The gradients by autograd through the forward pass."""
    acc = style.accumulator(asking.query.dtype)
    with torch.enable_grad():
        query = asking.query.detach().to(acc).requires_grad_()
        leaves = [[x.detach().to(acc).requires_grad_() for x in (block.key, block.value)] for block in blocks]
        given = [Block(*pair, block.positions) for pair, block in zip(leaves, blocks, strict=True)]
        out, _ = forward(style, problem, Queries(query, *asking[1:]), given, asking.query.dtype)
        dQ, *grads = torch.autograd.grad(out, [query, *(x for pair in leaves for x in pair)], grad_out.to(acc))
    return dQ, list(zip(grads[::2], grads[1::2], strict=True))


def _scores(style: Style, problem: Problem, query: Tensor, key: Tensor) -> tuple[Tensor, int]:
    """The scores in units of the base that they are exponents to."""
    acc = style.accumulator(query.dtype)
    key = _repeated(key, query.shape[1] // key.shape[1])
    if style.narrow_scores:
        return ((query @ key.mT) * problem.scale).to(acc), 0
    factor = problem.scale * LOG2E if style.softmax == "exp2" else problem.scale
    query, key = query.to(acc), key.to(acc)
    s = (query * factor) @ key.mT if style.scale_query else (query @ key.mT) * factor
    return s, 2 if style.softmax == "exp2" else 0


def _piece(
    style: Style, problem: Problem, asking: Queries, block: Block, counts: Tensor, dtype: torch.dtype
) -> tuple[Tensor, ...]:
    """Numerator, denominator and maximum of one piece; the maximum of nothing is -inf. Or its output and its lse."""
    s, base = _scores(style, problem, asking.query, block.key)
    if style.softmax in merging.MERGES:
        value = _repeated(block.value, s.shape[1] // block.value.shape[1]).to(s.dtype)
        return merging.block(s, counts, value, lambda out: _rounded(out, dtype, style.round_blocks))
    s = torch.where(counts > 0, s, -torch.inf)
    top = s.amax(-1, keepdim=True) if s.shape[-1] else s.new_full((*s.shape[:-1], 1), -torch.inf)
    p = counts * _power(s - torch.where(top.isneginf(), 0.0, top), base)
    total = p.sum(-1, keepdim=True)
    value = _repeated(block.value, s.shape[1] // block.value.shape[1]).to(s.dtype)
    return _rounded(p, dtype, style.round_weights) @ value, total, top


def _merged(style: Style, dtype: torch.dtype, pieces: list[tuple[Tensor, ...]]) -> tuple[Tensor, Tensor]:
    if style.softmax in merging.MERGES:
        return merging.merged(style.softmax, pieces)
    base = 2 if style.softmax == "exp2" else 0
    if style.softmax != "running":
        pieces = [_normalised(style, dtype, piece, base) for piece in pieces]
    if style.order == "reverse":
        pieces = pieces[::-1]
    while len(pieces) > 1:
        if style.order == "tree":
            pairs = [pieces[k : k + 2] for k in range(0, len(pieces), 2)]
            pieces = [_merge(style, dtype, *pair, base) if len(pair) == 2 else pair[0] for pair in pairs]
        else:
            pieces = [_merge(style, dtype, pieces[0], pieces[1], base), *pieces[2:]]
    out, _, top = pieces[0]
    if style.softmax == "running":
        out, _, top = _normalised(style, dtype, pieces[0], base)
    return out, (top / LOG2E if base == 2 else top).squeeze(-1)


def _normalised(style: Style, dtype: torch.dtype, piece: tuple[Tensor, ...], base: int) -> tuple[Tensor, ...]:
    """The piece with a denominator of 1: its own output, and its lse as the maximum."""
    numerator, total, top = piece
    out = torch.where(total == 0, 0.0, numerator / (total + style.guard))
    lse = torch.where(total == 0, -torch.inf, top + (torch.log2(total) if base == 2 else torch.log(total)))
    lse = _rounded(lse, dtype, style.narrow_lse)
    rounds = style.round_blocks or style.narrow_output
    return _rounded(out, dtype, rounds), torch.ones_like(total), lse


def _merge(
    style: Style, dtype: torch.dtype, one: tuple[Tensor, ...], other: tuple[Tensor, ...], base: int
) -> tuple[Tensor, ...]:
    top = torch.maximum(one[2], other[2])
    level = torch.where(top.isneginf(), 0.0, top)
    a, b = _power(one[2] - level, base), _power(other[2] - level, base)
    if style.softmax == "running":
        return one[0] * a + other[0] * b, one[1] * a + other[1] * b, top
    a, b = torch.where(one[2].isneginf(), 0.0, a), torch.where(other[2].isneginf(), 0.0, b)
    total = a + b
    merged = (one[0] * a + other[0] * b) / torch.where(total == 0, 1.0, total)
    lse = torch.where(total == 0, -torch.inf, level + (torch.log2(total) if base == 2 else torch.log(total)))
    lse = _rounded(lse, dtype, style.narrow_lse)
    return _rounded(merged, dtype, style.narrow_output), one[1], lse


def _repeated(tensor: Tensor, group: int) -> Tensor:
    """Each kv head once for every query head that reads it."""
    return tensor.repeat_interleave(group, dim=1) if group > 1 else tensor


def _over_groups(tensor: Tensor, group: int) -> Tensor:
    return tensor.unflatten(1, (-1, group)).sum(2) if group > 1 else tensor


def _power(exponent: Tensor, base: int) -> Tensor:
    return torch.exp2(exponent) if base == 2 else torch.exp(exponent)


def _rounded(tensor: Tensor, dtype: torch.dtype, wanted: bool) -> Tensor:
    """The values as the inputs' dtype holds them."""
    return tensor.to(dtype).to(tensor.dtype) if wanted else tensor


def _chunks(rows: int, size: int | None) -> list[tuple[int, int]]:
    if size is None or rows == 0:
        return [(0, rows)]
    size = max(size, -(-rows // _MOST_CHUNKS))
    return [(start, min(start + size, rows)) for start in range(0, rows, size)]
