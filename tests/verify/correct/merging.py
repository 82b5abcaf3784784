"""Merges by the updates of published rings, which autograd can walk back through."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

#: An output (batch, heads, rows, dim) and its lse (batch, heads, rows).
Part = tuple[Tensor, Tensor]


def block(scores: Tensor, counts: Tensor, value: Tensor, rounded: Callable[[Tensor], Tensor]) -> Part:
    """One block by itself; a row that sees nothing of it has an output of 0 and an lse of -inf."""
    sees = (counts > 0).any(-1)
    scores = torch.where(sees[..., None], scores + counts.to(scores.dtype).log(), 0.0)
    out = rounded((scores.softmax(-1) @ value) * sees[..., None])
    return out, scores.logsumexp(-1).masked_fill(~sees, -torch.inf)


def by_sigmoid(one: Part, other: Part) -> Part:
    """out - g (out - block_out) with g = sigmoid(block_lse - lse), and lse - logsigmoid(lse - block_lse)."""
    (out, lse), (block_out, block_lse) = one, other
    a, b, both = _guarded(lse, block_lse)
    gate = torch.where(both, torch.sigmoid(b - a), (block_lse > -torch.inf).to(out.dtype))
    merged = torch.where(both, a - logsigmoid(a - b), torch.maximum(lse, block_lse))
    return out - gate[..., None] * (out - block_out), merged


def by_logaddexp(one: Part, other: Part) -> Part:
    """Both outputs weighted by exp(lse - logaddexp of both)."""
    (out, lse), (block_out, block_lse) = one, other
    a, b, both = _guarded(lse, block_lse)
    total = torch.logaddexp(a, b)
    mine = torch.where(both, (a - total).exp(), (lse > -torch.inf).to(out.dtype))
    its = torch.where(both, (b - total).exp(), (block_lse > -torch.inf).to(out.dtype))
    return out * mine[..., None] + block_out * its[..., None], torch.where(both, total, torch.maximum(lse, block_lse))


MERGES = {"sigmoid": by_sigmoid, "logaddexp": by_logaddexp}


def merged(name: str, parts: Sequence[Part]) -> Part:
    """All parts, one after another."""
    return reduce(MERGES[name], parts)


def _guarded(lse: Tensor, block_lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Both without infinities, and where both have seen something."""
    both = (lse > -torch.inf) & (block_lse > -torch.inf)
    return lse.where(both, 0.0), block_lse.where(both, 0.0), both
