"""Which query rows meet which key rows, on which rank, and which rows must travel for it: integers only.

Everything is an arithmetic progression, so a `range` of global positions says it exactly: a rank's shard, the rows that
a head selects in a segment, the heads that share an offset. Rank and position never mix: rows are named by their global
position until the very last step, where a buffer is addressed.
"""

import itertools
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from attention_gate.impls.document_order import document_parts

Mask = Callable[[Tensor, Tensor, Tensor], Tensor]
"""Whether a head's query at one position may see the key at another: (head, query, key), int64, to booleans."""


class Branch(NamedTuple):
    """One pair of segment length and dilation rate."""

    segment_length: int
    dilation_rate: int


class Document(NamedTuple):
    """Rows that see each other and no others: so many queries and keys from these rows on.

    The queries are the document's last positions: query row i stands at position i + shift.
    """

    first_query: int
    queries: int
    first_key: int
    keys: int

    @property
    def shift(self) -> int:
        """Return what is added to a query's row for its position."""
        return self.first_key + self.keys - self.queries - self.first_query


class Tile(NamedTuple):
    """One dense attention problem: these heads' queries against these keys, all of one document, segment and offset.

    Both are positions; a query's row is its position less `shift`. Causality, a window and a mask hide some keys from
    some queries; but for the mask every query sees at least one key and every key is seen by at least one query.
    """

    heads: range
    queries: range
    keys: range
    shift: int = 0


@dataclass(frozen=True)
class Layout:
    """All that decides which rows go where; equal layouts have equal plans, so it is the key of every cache."""

    sequence_length: int
    world_size: int
    rank: int
    heads: int
    kv_heads: int
    branches: tuple[Branch, ...]
    is_causal: bool
    query_length: int | None = None  # None: as many queries as keys
    documents: tuple[Document, ...] | None = None  # None: all rows are one
    window: tuple[int | None, int | None] = (None, None)
    mask: Mask | None = None
    joint_length: int = 0  # rows of keys that every rank has
    joint_first: bool = True  # whether they stand before all others, or after them
    by_document: bool = False  # whether each document is shared by itself, in the order of document_zigzag

    def shard(self, rank: int) -> range:
        """Return the positions that `rank` owns: the shards of torch.tensor_split, the first ones longer by one."""
        first = self.joint_length if self.joint_first else 0
        owned = part(self.sequence_length, self.world_size, rank)
        return range(first + owned.start, first + owned.stop)

    def parts(self, rank: int) -> tuple[range, ...]:
        """Return the contiguous parts of the positions that `rank` owns, in the order of its rows."""
        if not self.by_document:
            return (self.shard(rank),)
        lengths = tuple(document.keys for document in self._documents)
        return document_parts(lengths, self.sequence_length, self.world_size)[rank]

    def query_parts(self, rank: int) -> tuple[range, ...]:
        """Return the contiguous parts of the rows of the queries that `rank` owns, in their order."""
        return self.parts(rank) if self.by_document else (self.query_shard(rank),)

    @property
    def joint_rows(self) -> range:
        """Return the positions of the keys that every rank has."""
        first = 0 if self.joint_first else self.sequence_length
        return range(first, first + self.joint_length)

    def query_shard(self, rank: int) -> range:
        """Return the rows of the queries that `rank` owns."""
        length = self.sequence_length if self.query_length is None else self.query_length
        return part(length, self.world_size, rank)

    @property
    def is_dense(self) -> bool:
        """Whether there is one branch without segments: positions before the first key belong to it, too."""
        [length, rate], *others = self.branches or ((0, 0),)
        return not others and rate == 1 and length >= self.sequence_length

    @property
    def reach(self) -> tuple[int | None, int | None]:
        """Return how far back and ahead a query sees; None is without bound."""
        left, right = self.window
        return left, 0 if self.is_causal else right

    @cached_property
    def _documents(self) -> tuple[Document, ...]:
        queries = self.sequence_length if self.query_length is None else self.query_length
        keys = self.sequence_length + self.joint_length
        return (Document(0, queries, 0, keys),) if self.documents is None else self.documents

    @cached_property
    def _first_queries(self) -> list[int]:
        return [document.first_query for document in self._documents]

    @cached_property
    def _first_keys(self) -> list[int]:
        return [document.first_key for document in self._documents]

    def keys_of_documents(self, queries: range) -> Iterator[range]:
        """Yield the positions of the keys of each document that has some of these rows of queries."""
        number = max(0, bisect_right(self._first_queries, queries.start) - 1)
        while number > 0 and self._first_queries[number - 1] == self._first_queries[number]:
            number -= 1
        for document in self._documents[number:]:
            if document.first_query >= queries.stop:
                return
            if document.keys and _overlap(document.first_query, document.queries, queries):
                yield range(document.first_key, document.first_key + document.keys)

    def documents_of(self, queries: range, keys: range) -> Iterator[tuple[Document, range, range]]:
        """Yield each document with rows of both, and its part of the queries and of the keys."""
        start = max(0, bisect_right(self._first_keys, keys.start) - 1)
        while start > 0 and self._first_keys[start - 1] == self._first_keys[start]:
            start -= 1
        for document in self._documents[start:]:
            if document.first_key >= keys.stop and document.keys:
                return
            own_keys = _overlap(document.first_key, document.keys, keys)
            own_queries = _overlap(document.first_query, document.queries, queries)
            if own_queries and own_keys:
                yield document, own_queries, own_keys

    @property
    def is_symmetric(self) -> bool:
        """Whether the order of the rows means nothing: even shards, in each branch every query sees every key."""
        is_even = self.sequence_length % (2 * self.world_size) == 0
        as_many = self.query_length is None and not self.joint_length
        is_plain = as_many and self.documents is None and self.mask is None
        is_full = is_plain and not self.is_causal and self.window == (None, None)
        return is_even and is_full and set(self.branches) == {Branch(max(1, self.sequence_length), 1)}

    def zigzag(self, rank: int) -> tuple[range, range]:
        """Return the positions that `rank` owns in the zigzag layout: parts rank and 2p - 1 - rank of 2p."""
        parts = 2 * self.world_size
        return part(self.sequence_length, parts, rank), part(self.sequence_length, parts, parts - 1 - rank)


def part(length: int, parts: int, index: int) -> range:
    """Return one part of so many rows as torch.tensor_split deals them out."""
    size, longer = divmod(length, parts)
    start = index * size + min(index, longer)
    return range(start, start + size + (index < longer))


class Placed(NamedTuple):
    """Contiguous positions, and the position that row 0 of the tensor would have if they went on to there."""

    rows: range
    origin: int


def placed(parts: Iterable[range]) -> list[Placed]:
    """Return the parts of a tensor's rows in their order; parts that go on from each other are one."""
    found: list[Placed] = []
    before = 0
    for part_of in parts:
        if found and found[-1].rows.stop == part_of.start:
            rows, origin = found.pop()
            found.append(Placed(range(rows.start, part_of.stop), origin))
        else:
            found.append(Placed(part_of, part_of.start - before))
        before += len(part_of)
    return found


def bounded_branches(
    segment_lengths: tuple[int, ...], dilation_rates: tuple[int, ...], sequence_length: int, heads: int
) -> tuple[Branch, ...]:
    """Return the branches with lengths and rates cut to where larger ones mean the same, however large they were.

    A segment longer than the sequence is the sequence. At a rate of at least both the sequence length and the number of
    heads each head selects one position at most, its own number.
    """
    longest, sparsest = max(1, sequence_length), max(1, sequence_length, heads)
    return tuple(
        Branch(min(segment_length, longest), min(dilation_rate, sparsest))
        for segment_length, dilation_rate in zip(segment_lengths, dilation_rates, strict=True)
    )


def tiles(layout: Layout, branch: Branch, queries: range, keys: range) -> Iterator[Tile]:
    """Yield the dense problems that make up one branch's attention of the `queries` to the `keys`.

    Both are contiguous ranges of rows. Each (head, query, key) that is visible but for the mask lies in one tile.
    """
    for document, own_queries, own_keys in layout.documents_of(queries, keys):
        shift = document.shift
        positions = range(own_queries.start + shift, own_queries.stop + shift)
        for offset, selected in _selections(layout, branch, positions, own_keys):
            seeing = positions if selected is None else _within(selected, positions)
            seen = own_keys if selected is None else _within(selected, own_keys)
            seeing, seen = reaching(layout.reach, seeing, seen)
            if seeing and seen:
                yield Tile(range(offset, layout.heads, branch.dilation_rate), seeing, seen, shift)


def _selections(layout: Layout, branch: Branch, queries: range, keys: range) -> Iterator[tuple[int, range | None]]:
    """Yield the offset and the positions of each selection that both may have part in; None is all positions."""
    if layout.is_dense:
        yield 0, None
        return
    length, rate = branch
    first = max(queries.start, keys.start) // length * length
    last = min(queries.stop, keys.stop)
    for start in range(first, last, length):
        for offset in range(min(rate, layout.heads)):
            yield offset, range(start + offset, start + length, rate)


def reaching(reach: tuple[int | None, int | None], seeing: range, seen: range) -> tuple[range, range]:
    """Return the queries that reach one of the keys, and the keys that one of them reaches."""
    left, right = reach
    if reach == (None, None):
        return seeing, seen
    if seeing and seen:
        seen = _within(
            seen,
            range(
                seen.start if left is None else max(seen.start, seeing[0] - left),
                seen.stop if right is None else min(seen.stop, seeing[-1] + right + 1),
            ),
        )
    if seeing and seen:
        seeing = _within(
            seeing,
            range(
                seeing.start if right is None else max(seeing.start, seen[0] - right),
                seeing.stop if left is None else min(seeing.stop, seen[-1] + left + 1),
            ),
        )
    return seeing, seen


def needed_rows(layout: Layout, destination: int, source: int) -> bytearray:
    """Mark which of the source's key and value rows the destination's queries see: one byte per (row, kv head).

    A row that several branches or several query heads of one kv head see is marked, and so travels, once.
    """
    group_size = layout.heads // layout.kv_heads
    marks = bytearray(sum(map(len, layout.parts(source))) * layout.kv_heads)
    meetings = itertools.product(layout.branches, layout.query_parts(destination), placed(layout.parts(source)))
    for branch, queries, (owned, origin) in meetings:
        for tile in tiles(layout, branch, queries, owned):
            if layout.mask is not None:
                _mark_allowed(marks, layout, tile, origin, layout.mask)
                continue
            stride = tile.keys.step * layout.kv_heads
            count = len(tile.keys)
            for kv_head in {head // group_size for head in tile.heads}:
                start = (tile.keys.start - origin) * layout.kv_heads + kv_head
                marks[start : start + (count - 1) * stride + 1 : stride] = b"\x01" * count
    return marks


#: So many answers of a mask exist at a time.
_ANSWERS_AT_A_TIME = 1 << 22


def _mark_allowed(marks: bytearray, layout: Layout, tile: Tile, first: int, mask: Mask) -> None:
    """Mark the keys of a tile that the mask lets one of its queries see."""
    keys = torch.tensor(tile.keys, device="cpu")
    rows = max(1, _ANSWERS_AT_A_TIME // max(1, len(keys)))
    for head in tile.heads:
        seen = torch.zeros(len(keys), dtype=torch.bool, device="cpu")
        for start in range(0, len(tile.queries), rows):
            queries = torch.tensor(tile.queries[start : start + rows], device="cpu")[:, None]
            allowed = mask(torch.tensor(head, device="cpu"), queries, keys).expand(len(queries), len(keys))
            seen |= (allowed & in_reach(layout.reach, queries, keys)).any(0)
        kv_head = head // (layout.heads // layout.kv_heads)
        for position in keys[seen].tolist():
            marks[(position - first) * layout.kv_heads + kv_head] = 1


def in_reach(reach: tuple[int | None, int | None], queries: Tensor, keys: Tensor) -> Tensor:
    """Return whether keys at these positions are in reach of queries at those, shapes broadcast."""
    left, right = reach
    seen = torch.ones(torch.broadcast_shapes(queries.shape, keys.shape), dtype=torch.bool, device=keys.device)
    if left is not None:
        seen &= queries - left <= keys
    if right is not None:
        seen &= keys <= queries + right
    return seen


def any_row_travels(layout: Layout) -> bool:
    """Tell whether rows might travel, as queries and keys that might see each other lie on two ranks.

    The same answer on every rank; it looks at segments and documents, not at a window or a mask.
    """
    differ = layout.query_length is not None or layout.joint_length > 0
    if differ or any(one.shift for one in layout.documents or ()):
        return layout.world_size > 1
    if layout.by_document:
        return layout.world_size > 1 and any(one.keys > 1 for one in layout.documents or ())
    boundaries = {layout.shard(rank).start for rank in range(layout.world_size)} - {0, layout.sequence_length}
    if layout.documents is not None:
        inside = [any(one.first_key < b < one.first_key + one.keys for one in layout.documents) for b in boundaries]
        return any(inside)
    return any(boundary % branch.segment_length for boundary in boundaries for branch in layout.branches)


def _overlap(first: int, count: int, rows: range) -> range:
    """Return the rows from `first` on, so many, that are among the contiguous `rows`."""
    start = max(first, rows.start)
    return range(start, max(start, min(first + count, rows.stop)))


def _within(rows: range, bounds: range) -> range:
    """Return the part of the progression `rows` that lies in the contiguous `bounds`."""
    step = rows.step
    skipped = max(0, -((rows.start - bounds.start) // step))
    return range(rows.start + skipped * step, max(rows.start + skipped * step, min(rows.stop, bounds.stop)), step)
