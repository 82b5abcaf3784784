"""Visibility: the masks of the branches, and their sum, the multiplicity."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from attention_gate.reference._branches import Branch, bounded, is_selected
from attention_gate.reference._rows import Boundaries, Rows, boundaries, check_window, in_window

Mask = Callable[[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]], NDArray[np.bool_]]
"""Whether query x of a head may see key j: a function of head, x and j."""

ABSENT = -1
"""The offset of a head that takes no part in a branch: no position leaves this remainder."""


def _longnet(head: int, heads: int, index: int, rates: list[int]) -> int:
    return head % rates[index]


def _torchscale(head: int, heads: int, index: int, rates: list[int]) -> int:
    heads_per_offset = -(-heads // rates[index])
    return head // heads_per_offset


def _grouped_mean(head: int, heads: int, index: int, rates: list[int]) -> int:
    size, larger = divmod(heads, len(rates))
    first = index * size + min(index, larger)
    in_group = first <= head < first + size + (index < larger)
    return index % rates[index] if in_group else ABSENT


_OFFSETS: dict[str, Callable[[int, int, int, list[int]], int]] = {
    "longnet": _longnet,
    "torchscale": _torchscale,
    "grouped-mean": _grouped_mean,
}

DIALECTS = tuple(_OFFSETS)
"""The dialects by name. They differ in the offset of a head; `dilated_attention` says how else."""


def head_offsets(heads: int, branches: Sequence[Branch], dialect: str = "longnet") -> NDArray[np.int64]:
    """The offset of each head in each branch, -1 where the head takes no part in the branch.

        head_offsets(4, branches([6, 8], [2, 3]))                           # [[0, 1, 0, 1], [0, 1, 2, 0]]
        head_offsets(4, branches([6, 8], [2, 3]), dialect="torchscale")     # [[0, 0, 1, 1], [0, 0, 1, 1]]
        head_offsets(4, branches([6, 8], [2, 3]), dialect="grouped-mean")   # [[0, 0, -1, -1], [-1, -1, 1, 1]]

    `longnet`: head mod r (arXiv 2307.02486, "Multi-Head Dilated Attention"). `torchscale`: head // ceil(heads / r).
    `grouped-mean`: heads in consecutive groups, one per branch, the first heads mod branches groups one larger; each
    head of a group takes the index of its branch mod r. Returns int64 (branches, heads). Raises ValueError for an
    unknown dialect.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"dialect must be one of {', '.join(map(repr, DIALECTS))}, got {dialect!r}")
    offset, rates = _OFFSETS[dialect], [branch.dilation_rate for branch in branches]
    table = [[offset(head, heads, index, rates) for head in range(heads)] for index in range(len(rates))]
    return np.array(table, dtype=np.int64).reshape(len(rates), heads)


def branch_masks(
    length: int,
    heads: int,
    branches: Sequence[Branch],
    is_causal: bool = False,
    dialect: str = "longnet",
    *,
    query_length: int | None = None,
    document_lengths: Sequence[int] | None = None,
    query_lengths: Sequence[int] | None = None,
    window: tuple[int | None, int | None] | None = None,
    mask: Mask | None = None,
) -> NDArray[np.bool_]:
    """Whether query x sees key j, branch by branch: both selected, in one segment and, if causal, j <= x.

        branch_masks(7, 2, branches([3, 7], [1, 2]), is_causal=True)[1, 0]   # head 0 in the branch (7, 2): (7, 7)
        branch_masks(7, 1, branches([7], [1]), document_lengths=[3, 4])[0, 0]   # two blocks of ones
        branch_masks(7, 1, branches([7], [1]), True, query_length=2)[0, 0]      # rows 5 and 6 of np.tri(7)

    length is the number of keys, query_length that of queries (None: as many). Also, query and key must be in the
    same document and in the window, and the mask must be true: `rows` and `in_window` say how these are given, and
    mask(head, x, j) takes integer arrays that broadcast to (heads, queries, keys) and returns booleans of that shape.

    Dense attention, one branch of rate 1 that is as long as the sequence, has no segment test: positions before the
    first key, which queries have where they are more than keys, are in no segment and yet see keys. Other branches
    take as many queries as keys, document by document.

    Returns bool (branches, heads, query_length, length). Raises TypeError for a length, a count of heads or an
    is_causal of another type, ValueError for a negative length, less than one head, an unknown dialect, other branches
    where queries and keys differ in number, a mask where a query stands before the first key; and as `rows` and
    `in_window` do.
    """
    sight = sight_of(
        length,
        heads,
        branches,
        is_causal,
        dialect,
        query_length=query_length,
        document_lengths=document_lengths,
        query_lengths=query_lengths,
        window=window,
        mask=mask,
    )
    query_rows, key_rows = np.arange(length if query_length is None else query_length), np.arange(length)
    of_heads = np.arange(heads)
    return np.stack([sight.mask(index, of_heads, query_rows, key_rows) for index in range(len(branches))])


@dataclass(frozen=True)
class Sight:
    """Which keys which queries see, for any rows that are asked for: what `branch_masks` says of all of them.

    ``offsets`` (branches, heads) is that of `head_offsets`; ``is_dense``: there is no segment test.
    """

    branches: tuple[Branch, ...]
    offsets: NDArray[np.int64]
    is_dense: bool
    is_causal: bool
    boundaries: Boundaries
    window: tuple[int | None, int | None] | None
    allowed: Mask | None

    def mask(
        self, index: int, heads: NDArray[np.int64], query_rows: NDArray[np.int64], key_rows: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Whether these queries see these keys in the branch of that index, bool (heads, queries, keys)."""
        queries, keys = self.boundaries.queries(query_rows), self.boundaries.keys(key_rows)
        x, j = queries.position[:, None], keys.position
        seen = queries.document[:, None] == keys.document
        if self.is_causal:
            seen = seen & (j <= x)
        if self.window is not None:
            seen = seen & in_window(queries, keys, self.window)
        masks = self._in_branch(index, heads, queries, keys) & seen
        return masks if self.allowed is None else masks & self._allowed(self.allowed, heads, x, j)

    def _in_branch(self, index: int, heads: NDArray[np.int64], queries: Rows, keys: Rows) -> NDArray[np.bool_]:
        """Whether both are selected and in one segment; always in dense attention."""
        branch, offsets = self.branches[index], self.offsets[index, heads][:, None]
        if self.is_dense:
            return np.asarray(offsets != ABSENT)[:, :, None]
        w = bounded(branch).segment_length
        chosen = [is_selected(branch, offsets, rows.position) for rows in (queries, keys)]
        same_segment = queries.position[:, None] // w == keys.position // w
        return chosen[0][:, :, None] & chosen[1][:, None, :] & same_segment

    def _allowed(
        self, mask: Mask, heads: NDArray[np.int64], x: NDArray[np.int64], j: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        if (x < 0).any():
            raise ValueError("mask needs at most as many queries as keys: some query lies before the first key")
        allowed = np.asarray(mask(heads[:, None, None], x, j))
        if allowed.dtype != np.bool_:
            raise TypeError(f"mask must return booleans, got dtype {allowed.dtype}")
        return np.broadcast_to(allowed, (len(heads), len(x), len(j)))


def sight_of(
    length: int,
    heads: int,
    branches: Sequence[Branch],
    is_causal: bool = False,
    dialect: str = "longnet",
    *,
    query_length: int | None = None,
    document_lengths: Sequence[int] | None = None,
    query_lengths: Sequence[int] | None = None,
    window: tuple[int | None, int | None] | None = None,
    mask: Mask | None = None,
) -> Sight:
    """What `branch_masks` computes of all rows, ready to be asked for some; arguments and errors are the same."""
    _check_count("length", length, least=0)
    _check_count("heads", heads, least=1)
    query_length = length if query_length is None else query_length
    _check_count("query_length", query_length, least=0)
    if not isinstance(is_causal, (bool, np.bool_)):
        raise TypeError(f"is_causal must be True or False, got {is_causal!r}")
    ends = boundaries(query_length, length, document_lengths, query_lengths)
    if window is not None:
        check_window(window)
    offsets = head_offsets(heads, branches, dialect)
    is_dense = len(branches) == 1 and branches[0].dilation_rate == 1 and branches[0].segment_length >= length
    has_queries = np.diff(ends.query_ends, prepend=0) > 0
    if not is_dense and (query_length != length or (ends.query_ends != ends.key_ends)[has_queries].any()):
        raise ValueError(
            f"the branches {[tuple(branch) for branch in branches]} need as many queries as keys in each document; "
            f"got {query_length} queries and {length} keys; only dense attention takes other numbers"
        )
    return Sight(tuple(branches), offsets, is_dense, bool(is_causal), ends, window, mask)


def multiplicity(
    length: int,
    heads: int,
    branches: Sequence[Branch],
    is_causal: bool = False,
    dialect: str = "longnet",
    *,
    query_length: int | None = None,
    document_lengths: Sequence[int] | None = None,
    query_lengths: Sequence[int] | None = None,
    window: tuple[int | None, int | None] | None = None,
    mask: Mask | None = None,
) -> NDArray[np.int64]:
    """M[h, x, j], the number of branches in which query x of head h sees key j.

        attention(query, key, value, multiplicity(7, 2, branches([3, 7], [1, 2])))
        attention(query, key, value, multiplicity(7, 2, branches([7], [1]), True, window=(2, None)))

    A key seen in two branches counts twice: the sum of `branch_masks`, not their union. Returns int64 (heads,
    query_length, length); takes and raises what `branch_masks` does.
    """
    masks = branch_masks(
        length,
        heads,
        branches,
        is_causal,
        dialect,
        query_length=query_length,
        document_lengths=document_lengths,
        query_lengths=query_lengths,
        window=window,
        mask=mask,
    )
    return masks.sum(axis=0, dtype=np.int64)


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, at least {least}, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be an integer, at least {least}, got {value}")
