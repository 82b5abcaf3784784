"""What a score is besides a product: scaled, capped, made smaller with the distance, hidden."""

from typing import NamedTuple

import torch
from torch import Tensor

from attention_gate.impls.tiling import Mask
from attention_gate.impls.work import Places, Work


class Scores(NamedTuple):
    """How scores come from products: scale q.k, then cap tanh(s / cap), then less slope |x - j|, then the mask."""

    scale: float
    softcap: float | None = None
    slopes: tuple[float, ...] | None = None
    mask: Mask | None = None

    @property
    def needs_places(self) -> bool:
        """Whether a score depends on where its query and its key stand."""
        return self.slopes is not None or self.mask is not None


class Piece(NamedTuple):
    """Which problems and which of their queries are computed, and how many leading keys these see at most."""

    problems: slice
    queries: slice
    keys: int


def finished(products: Tensor, scores: Scores, work: Work, piece: Piece) -> tuple[Tensor, Tensor | None]:
    """Return the scores of scaled products (batch, problems, queries, keys), -inf where hidden, in place.

    Also the derivative of a capped score by the product, None without a cap.
    """
    derivative = None
    if scores.softcap is not None:
        ratio = products.div_(scores.softcap).tanh_()
        derivative = 1 - ratio * ratio
        products = ratio.mul_(scores.softcap)
    places = _of(work.places, piece) if work.places is not None else None
    if scores.slopes is not None and places is not None:
        slopes = torch.tensor(scores.slopes, dtype=products.dtype, device=products.device)[places.head]
        products -= slopes.unsqueeze(-1) * (places.query.unsqueeze(-1) - places.key.unsqueeze(-2)).abs()
    hidden = _hidden(work, piece)
    if scores.mask is not None and places is not None:
        seen = scores.mask(places.head.unsqueeze(-1), places.query.unsqueeze(-1), places.key.unsqueeze(-2))
        hidden = ~seen if hidden is None else hidden | ~seen
    if hidden is not None:
        products.masked_fill_(hidden, float("-inf"))
    return products, derivative


def _hidden(work: Work, piece: Piece) -> Tensor | None:
    """Return which keys of the piece each query does not see, by their place among the leading ones."""
    slots = torch.arange(piece.keys, device=work.query_index.device)
    hidden = None
    if work.visible is not None:
        hidden = slots >= work.visible[piece.problems, piece.queries].unsqueeze(-1)
    if work.before is not None:
        too_far = slots < work.before[piece.problems, piece.queries].unsqueeze(-1)
        hidden = too_far if hidden is None else hidden | too_far
    return hidden


def _of(places: Places, piece: Piece) -> Places:
    return Places(
        places.head[piece.problems],
        places.query[piece.problems, piece.queries],
        places.key[piece.problems, : piece.keys],
    )
