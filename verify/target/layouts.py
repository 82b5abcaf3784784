"""Layouts, which assign the rows of the sequence to ranks: functions (rank, world_size, length) -> positions."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from attention_gate.verify.target.choices import one_of

Layout = Callable[[int, int, int], np.ndarray]


def contiguous(rank: int, world_size: int, length: int) -> np.ndarray:
    """Positions of ``torch.tensor_split(arange(length), world_size)[rank]``, int64."""
    small, larger = divmod(length, world_size)
    start = rank * small + min(rank, larger)
    return np.arange(start, start + small + (rank < larger))


def zigzag(rank: int, world_size: int, length: int) -> np.ndarray:
    """Chunks ``rank`` and ``2 world_size - 1 - rank`` of 2 world_size chunks: even work under a causal mask."""
    chunks = 2 * world_size
    return np.concatenate([contiguous(chunk, chunks, length) for chunk in (rank, chunks - 1 - rank)])


def striped(rank: int, world_size: int, length: int) -> np.ndarray:
    """Every world_size-th position from ``rank`` on (striped attention, arXiv 2311.09431)."""
    return np.arange(rank, length, world_size)


def interleaved(rank: int, world_size: int, length: int, rows: int = 1) -> np.ndarray:
    """Blocks of ``rows`` positions dealt out to the ranks in turn, as caches of keys for decoding are."""
    positions = np.arange(length)
    return positions[positions // rows % world_size == rank]


#: The layout whose blocks have as many rows as the case says.
INTERLEAVED = "interleaved"

LAYOUTS: dict[str, Layout] = {"contiguous": contiguous, "zigzag": zigzag, "striped": striped, INTERLEAVED: interleaved}


def layout_function(layout: str | Layout) -> Layout:
    """The function behind a layout's name; a function is returned as it is."""
    if callable(layout):
        return layout
    one_of("layout", layout, LAYOUTS)
    return LAYOUTS[layout]
