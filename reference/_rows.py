"""Which document each row belongs to and at which position it stands, for queries fewer or more than keys."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Rows(NamedTuple):
    """The document of each query or key, negative where it has none, and its position: int64 (length,)."""

    document: NDArray[np.int64]
    position: NDArray[np.int64]


def rows(
    query_length: int,
    key_length: int,
    document_lengths: Sequence[int] | None = None,
    query_lengths: Sequence[int] | None = None,
) -> tuple[Rows, Rows]:
    """The rows of the queries and those of the keys.

        rows(5, 5)[0].position                                          # [0, 1, 2, 3, 4]
        rows(2, 5)[0].position                                          # [3, 4]
        rows(5, 5, document_lengths=[3, 2])[1].document                 # [0, 0, 0, 1, 1]
        rows(3, 5, document_lengths=[3, 2], query_lengths=[1, 2])[0]    # documents 0, 1, 1, positions 2, 3, 4

    Document b holds document_lengths[b] keys, at positions from the sum of the lengths before it on, and
    query_lengths[b] queries (None: as many as keys). Its queries are its last positions: of q queries and k keys query
    u stands k - q + u positions after the document's first key, before it where that is negative. Without documents all
    rows are one. Rows after the last document belong to none. Zero is a legal length.

    Raises TypeError for what is not a sequence of integers, ValueError for a negative length, lengths that add up to
    more rows than there are, for query_lengths without document_lengths and for counts that differ.
    """
    places = boundaries(query_length, key_length, document_lengths, query_lengths)
    return places.queries(np.arange(query_length)), places.keys(np.arange(key_length))


class Boundaries(NamedTuple):
    """Where the documents end, in rows of queries and in rows of keys: int64 (documents,) each.

    What `rows` says of all rows, `queries` and `keys` say of any that are asked for, so that no array of the whole
    sequence is needed.
    """

    query_ends: NDArray[np.int64]
    key_ends: NDArray[np.int64]

    def queries(self, at: NDArray[np.int64]) -> Rows:
        """Document and position of these rows of the queries."""
        document = self._document(self.query_ends, at)
        has_one = document < len(self.query_ends)
        shift = np.append(self.key_ends - self.query_ends, 0)[document]
        return Rows(np.where(has_one, document, -1), np.where(has_one, at + shift, 0))

    def keys(self, at: NDArray[np.int64]) -> Rows:
        """Document and position of these rows of the keys."""
        document = self._document(self.key_ends, at)
        return Rows(np.where(document < len(self.key_ends), document, -2), at)

    def _document(self, ends: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first document that ends after a row, their number where none does."""
        return np.searchsorted(ends, at, side="right")


def boundaries(
    query_length: int,
    key_length: int,
    document_lengths: Sequence[int] | None = None,
    query_lengths: Sequence[int] | None = None,
) -> Boundaries:
    """The ends of the documents; arguments and errors as in `rows`."""
    if document_lengths is None:
        if query_lengths is not None:
            raise ValueError(f"query_lengths {query_lengths} are given without document_lengths")
        return Boundaries(np.array([query_length]), np.array([key_length]))
    document_lengths = _lengths("document_lengths", document_lengths, key_length, "keys")
    if query_lengths is None:
        query_lengths = document_lengths
    query_lengths = _lengths("query_lengths", query_lengths, query_length, "queries")
    if len(query_lengths) != len(document_lengths):
        raise ValueError(
            "query_lengths and document_lengths must have the same count, one of each per document: "
            f"got {len(query_lengths)} and {len(document_lengths)}"
        )
    return Boundaries(np.cumsum(query_lengths, dtype=np.int64), np.cumsum(document_lengths, dtype=np.int64))


def in_window(queries: Rows, keys: Rows, window: tuple[int | None, int | None]) -> NDArray[np.bool_]:
    """Whether a key stands at most `left` positions before the query and at most `right` after it, (queries, keys).

        in_window(*rows(4, 4), (1, 0))   # each query sees its own position and the one before

    Both bounds are included; None: no limit. Raises TypeError and ValueError for what is neither None nor an integer
    of at least 0.
    """
    check_window(window)
    left, right = window
    x, j = queries.position[:, None], keys.position
    inside = np.ones((len(x), len(j)), dtype=np.bool_)
    if left is not None:
        inside &= x - left <= j
    if right is not None:
        inside &= j <= x + right
    return inside


def check_window(window: tuple[int | None, int | None]) -> None:
    """Raise TypeError or ValueError for what is no window."""
    if not isinstance(window, tuple) or len(window) != 2:
        raise TypeError(f"window must be a pair (left, right), got {window!r}")
    for bound in window:
        if bound is not None and (isinstance(bound, (bool, np.bool_)) or not isinstance(bound, (int, np.integer))):
            raise TypeError(f"window must hold integers of at least 0, or None for no bound, got {window!r}")
        if bound is not None and bound < 0:
            raise ValueError(f"window must hold integers of at least 0, or None for no bound, got {window!r}")


def _lengths(name: str, lengths: Sequence[int], most: int, what: str) -> list[int]:
    if isinstance(lengths, (str, bytes)) or not isinstance(lengths, (Sequence, np.ndarray)):
        raise TypeError(f"{name} must be a sequence of integers of at least 0, got {lengths!r}")
    for length in lengths:
        if isinstance(length, (bool, np.bool_)) or not isinstance(length, (int, np.integer)):
            raise TypeError(f"{name} must hold integers of at least 0, got {length!r} ({type(length).__name__})")
        if length < 0:
            raise ValueError(f"{name} must hold integers of at least 0, got {length}")
    if sum(lengths) > most:
        raise ValueError(f"{name} {list(lengths)} add up to {sum(lengths)} rows, and there are {most} {what}")
    return [int(length) for length in lengths]
