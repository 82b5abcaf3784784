"""The optional terms of a call: which keys they leave visible, what they make of a score, what the sink adds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor


class Terms(NamedTuple):
    """The optional terms as they are given; None where one is off."""

    documents: Any
    window: Any
    mask: Callable[[Tensor, Tensor, Tensor], Tensor] | None
    softcap: float | None
    slopes: Any
    sink: Tensor | None

    def allowed(self, length: int, heads: Tensor, rows: Tensor, keys: Tensor) -> Tensor:
        """Which keys documents, window and mask leave to each head's rows, by position: bool (heads, rows, keys)."""
        queries = rows[:, None]
        seen = torch.ones(len(rows), len(keys), dtype=torch.bool)
        if self.documents is not None:
            numbers = document_numbers(self.documents, length)
            seen = seen & (numbers[rows][:, None] == numbers[keys]) & (numbers[keys] >= 0)
        if self.window is not None:
            left, right = self.window
            if left is not None:
                seen = seen & (queries - left <= keys)
            if right is not None:
                seen = seen & (keys <= queries + right)
        if self.mask is not None:
            seen = seen & self.mask(heads[:, None, None], queries, keys)
        return seen.expand(len(heads), len(rows), len(keys))

    def scored(self, products: Tensor, heads: Tensor, rows: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """The scores of scaled products (batch, heads, rows, keys), and the derivative of the cap."""
        slope_of_cap = torch.ones_like(products)
        if self.softcap is not None:
            ratio = torch.tanh(products / self.softcap)
            slope_of_cap = 1.0 - ratio**2
            products = self.softcap * ratio
        if self.slopes is not None:
            slopes = torch.tensor(self.slopes, dtype=products.dtype)[heads]
            products = products - slopes[:, None, None] * (rows[:, None] - keys).abs()
        return products, slope_of_cap


def document_numbers(lengths: Any, length: int) -> Tensor:
    """The number of each row's document; -1 for the rows after the last one."""
    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    return torch.cat((numbers, torch.full((length - len(numbers),), -1)))


def with_sink(out: Tensor, lse: Tensor, sink: Tensor | None) -> tuple[Tensor, Tensor]:
    """Out (batch, heads, rows, dim) and lse (batch, heads, rows) with the sink's term in each row's denominator."""
    if sink is None:
        return out, lse
    logit = sink.to(lse.dtype)[:, None]
    gap = (lse - logit).masked_fill(lse.isneginf(), float("-inf"))
    return out * torch.sigmoid(gap)[..., None], torch.logaddexp(lse.detach(), logit.detach())


def objection_to(terms: Terms, query: Any) -> str | None:
    """What is wrong with this rank's terms, in words; None if nothing is."""
    documents, window, cap, slopes, sink = terms.documents, terms.window, terms.softcap, terms.slopes, terms.sink
    if documents is not None and not (
        isinstance(documents, list | tuple) and all(type(length) is int and length >= 0 for length in documents)
    ):
        return f"document_lengths is {documents!r}; it must be a list of integers of at least 0"
    if window is not None and not (
        isinstance(window, list | tuple)
        and len(window) == 2
        and all(bound is None or (type(bound) is int and bound >= 0) for bound in window)
    ):
        return f"window is {window!r}; it must be two integers of at least 0, or None"
    if terms.mask is not None and not callable(terms.mask):
        return f"mask is {terms.mask!r}; it must be a function"
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int | float) or not 0 < cap < 1e300):
        return f"softcap is {cap!r}; it must be a finite number above 0"
    heads = query.shape[2] if isinstance(query, Tensor) and query.dim() == 4 else 0
    if slopes is not None and not (isinstance(slopes, list | tuple) and len(slopes) == heads):
        return f"slopes is {slopes!r}; it must be a list of one number for each of the {heads} heads"
    if sink is not None and not (isinstance(sink, Tensor) and sink.is_floating_point() and sink.shape == (heads,)):
        return f"sink is {sink!r}; it must be a floating tensor of one number for each of the {heads} heads"
    return None


def stated_by(terms: Terms) -> tuple[Any, ...]:
    """What of the terms must be the same on every rank."""
    mask, sink = terms.mask, terms.sink
    return (
        *(terms.documents, terms.window, terms.softcap, terms.slopes),
        *(getattr(mask, "__qualname__", None), None if sink is None else sink.tolist()),
    )
