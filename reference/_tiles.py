"""Tiles of queries and keys that hold all that some queries see, found from the index sets alone."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from attention_gate.reference._branches import bounded, is_selected
from attention_gate.reference._visibility import ABSENT, Sight

Indices = NDArray[np.int64]

#: Keys of a tile, and queries: some 8 MB of scores for each batch row.
TILE_KEYS, TILE_QUERIES = 2048, 512

_FAR = 1 << 62


def tiles(
    sight: Sight, index: int, offset: int, query_rows: Indices, key_rows: Indices | None = None
) -> Iterator[tuple[Indices, Indices]]:
    """Places in query_rows and rows of keys, tile by tile: together all pairs that see each other in one branch.

    query_rows: ascending, as key_rows, the only keys that count (None: all). offset: of the head. A tile may hold pairs
    that do not see each other, which `Sight.mask` tells; that no pair is missing is what this function promises.
    """
    if offset == ABSENT or not len(query_rows):
        return
    low, high = key_bounds(sight, index, query_rows)
    branch = bounded(sight.branches[index])
    w, r = (_FAR, 1) if sight.is_dense else branch
    position = sight.boundaries.queries(query_rows).position
    chosen = (low < high) & (sight.is_dense | is_selected(branch, offset, np.maximum(position, 0)))
    places = np.flatnonzero(chosen)
    segment = position[places] // w if not sight.is_dense else np.zeros(len(places), dtype=np.int64)
    for own in np.unique(segment):
        at = places[segment == own]
        first, last = int(low[at].min()), int(high[at].max())
        if key_rows is None:
            start = own * w + offset if not sight.is_dense else 0
            keys = np.arange(start + max(0, -(-(first - start) // r)) * r, last, r)
        else:
            keys = key_rows[(key_rows >= first) & (key_rows < last)]
            if not sight.is_dense:
                keys = keys[is_selected(branch, offset, keys)]
        for begin in range(0, len(keys), TILE_KEYS):
            tile = keys[begin : begin + TILE_KEYS]
            meeting = at[(low[at] <= tile[-1]) & (high[at] > tile[0])]
            for cut in range(0, len(meeting), TILE_QUERIES):
                yield meeting[cut : cut + TILE_QUERIES], tile


def key_bounds(sight: Sight, index: int, query_rows: Indices) -> tuple[Indices, Indices]:
    """The first key that each of the queries may see, and the first after the last one; equal or crossed: it sees none.

    By document, segment, causality and window; dilation and mask are not asked.
    """
    queries = sight.boundaries.queries(query_rows)
    ends = np.concatenate([[0], sight.boundaries.key_ends])
    x, document = queries.position, queries.document
    low, high = ends[document], np.where(document < 0, 0, ends[document + 1])
    if not sight.is_dense:
        w = bounded(sight.branches[index]).segment_length
        low, high = np.maximum(low, x // w * w), np.minimum(high, x // w * w + w)
    if sight.is_causal:
        high = np.minimum(high, x + 1)
    left, right = sight.window or (None, None)
    if left is not None:
        low = np.maximum(low, x - left)
    if right is not None:
        high = np.minimum(high, x + right + 1)
    return low, np.where(document < 0, low, high)


def queries_that_may_see(sight: Sight, index: int, offset: int, key_rows: Indices) -> Indices:
    """Rows of the queries, ascending: all that see one of the keys in the branch are among them."""
    if offset == ABSENT or not len(key_rows):
        return np.zeros(0, dtype=np.int64)
    branch = bounded(sight.branches[index])
    w, r = (_FAR, 1) if sight.is_dense else branch
    document = sight.boundaries.keys(key_rows).document
    key_ends = np.concatenate([[0], sight.boundaries.key_ends])
    query_ends = np.concatenate([[0], sight.boundaries.query_ends])
    left, right = sight.window or (None, None)
    found = []
    for j, own in zip(key_rows.tolist(), document.tolist(), strict=True):
        if own < 0 or not (sight.is_dense or is_selected(branch, offset, np.array(j))):
            continue
        shift = int(key_ends[own + 1] - query_ends[own + 1])  # from the row of a query to its position
        low, high = int(query_ends[own]) + shift, int(query_ends[own + 1]) + shift
        if not sight.is_dense:
            low, high = max(low, j // w * w), min(high, j // w * w + w)
        low = max(low, j if sight.is_causal else low, low if right is None else j - right)
        high = min(high, high if left is None else j + left + 1)
        start = low + (j - low) % r  # the segment's selected positions are j's own class
        found.append(np.arange(start, high, r) - shift)
    return np.unique(np.concatenate([np.zeros(0, dtype=np.int64), *found]))
