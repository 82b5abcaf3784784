"""Layouts, which assign the rows of the sequence to ranks: functions (rank, world_size, length) -> positions.

One that depends on packed documents has a parameter document_lengths more, a tuple or None.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable

import numpy as np

from attention_gate.verify.target.choices import one_of

Layout = Callable[..., np.ndarray]


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


def document_zigzag(
    rank: int, world_size: int, length: int, document_lengths: tuple[int, ...] | None = None
) -> np.ndarray:
    """Of each document, and of the rows after the last one, chunks ``rank`` and ``2 world_size - 1 - rank``.

    Rows by which chunks of a document differ are dealt out to the ranks in turn, going on from document to document.
    """
    documents = (*(document_lengths or ()), length - sum(document_lengths or ()))
    owned, first, dealt = [], 0, 0
    for rows in documents:
        sizes = np.full(2 * world_size, rows // (2 * world_size))
        for more in range(rows % (2 * world_size)):
            taker = (dealt + more) % world_size
            sizes[taker if more < world_size else 2 * world_size - 1 - taker] += 1
        ends = first + np.cumsum(sizes)
        for chunk in (rank, 2 * world_size - 1 - rank):
            owned.append(np.arange(ends[chunk] - sizes[chunk], ends[chunk]))
        first, dealt = first + rows, dealt + rows
    return np.concatenate(owned)


#: The layout whose blocks have as many rows as the case says.
INTERLEAVED = "interleaved"

LAYOUTS: dict[str, Layout] = {
    "contiguous": contiguous,
    "zigzag": zigzag,
    "striped": striped,
    INTERLEAVED: interleaved,
    "document-zigzag": document_zigzag,
}


def layout_function(layout: str | Layout) -> Layout:
    """The function behind a layout's name; a function is returned as it is."""
    if callable(layout):
        return layout
    one_of("layout", layout, LAYOUTS)
    return LAYOUTS[layout]


def takes_documents(layout: Layout) -> bool:
    """Whether the layout depends on packed documents."""
    try:
        return "document_lengths" in inspect.signature(layout).parameters
    except (TypeError, ValueError):
        return False
