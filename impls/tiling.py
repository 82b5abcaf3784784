"""Which query rows meet which key rows, on which rank, and which rows must travel for it: integers only.

Everything is an arithmetic progression, so a `range` of global positions says it exactly: a rank's shard, the rows that
a head selects in a segment, the heads that share an offset. Rank and position never mix: rows are named by their global
position until the very last step, where a buffer is addressed.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple


class Branch(NamedTuple):
    """One pair of segment length and dilation rate."""

    segment_length: int
    dilation_rate: int


class Tile(NamedTuple):
    """One dense attention problem: these heads' queries against these keys, all of one segment and one offset.

    Under causality a query of the tile sees the keys at or before its own position; every query sees at least one key
    and every key is seen by at least one query.
    """

    heads: range
    queries: range
    keys: range


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

    def shard(self, rank: int) -> range:
        """Return the positions that `rank` owns: the shards of torch.tensor_split, the first ones longer by one."""
        return part(self.sequence_length, self.world_size, rank)

    @property
    def is_symmetric(self) -> bool:
        """Whether the order of the rows means nothing: even shards, in each branch every query sees every key."""
        is_even = self.sequence_length % (2 * self.world_size) == 0
        return is_even and not self.is_causal and set(self.branches) == {Branch(max(1, self.sequence_length), 1)}

    def zigzag(self, rank: int) -> tuple[range, range]:
        """Return the positions that `rank` owns in the zigzag layout: parts rank and 2p - 1 - rank of 2p."""
        parts = 2 * self.world_size
        return part(self.sequence_length, parts, rank), part(self.sequence_length, parts, parts - 1 - rank)


def part(length: int, parts: int, index: int) -> range:
    """Return one part of so many rows as torch.tensor_split deals them out."""
    size, longer = divmod(length, parts)
    start = index * size + min(index, longer)
    return range(start, start + size + (index < longer))


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

    Both are contiguous ranges of global positions. Each visible (head, query, key) lies in exactly one tile.
    """
    length, rate = branch
    first = max(queries.start, keys.start) // length * length
    last = min(queries.stop, keys.stop)
    for start in range(first, last, length):
        for offset in range(min(rate, layout.heads)):
            selected = range(start + offset, start + length, rate)
            seeing, seen = _within(selected, queries), _within(selected, keys)
            if layout.is_causal and seeing and seen:
                later, earlier = range(seen[0], queries.stop), range(keys.start, seeing[-1] + 1)
                seeing, seen = _within(seeing, later), _within(seen, earlier)
            if seeing and seen:
                yield Tile(range(offset, layout.heads, rate), seeing, seen)


def needed_rows(layout: Layout, destination: int, source: int) -> bytearray:
    """Mark which of the source's key and value rows the destination's queries see: one byte per (row, kv head).

    A row that several branches or several query heads of one kv head see is marked, and so travels, once.
    """
    owned = layout.shard(source)
    group_size = layout.heads // layout.kv_heads
    marks = bytearray(len(owned) * layout.kv_heads)
    for branch in layout.branches:
        for tile in tiles(layout, branch, layout.shard(destination), owned):
            stride = tile.keys.step * layout.kv_heads
            count = len(tile.keys)
            for kv_head in {head // group_size for head in tile.heads}:
                start = (tile.keys.start - owned.start) * layout.kv_heads + kv_head
                marks[start : start + (count - 1) * stride + 1 : stride] = b"\x01" * count
    return marks


def any_row_travels(layout: Layout) -> bool:
    """Tell whether a segment spans two shards, hence whether rows might travel: the same answer on every rank."""
    boundaries = {layout.shard(rank).start for rank in range(layout.world_size)} - {0, layout.sequence_length}
    return any(boundary % branch.segment_length for boundary in boundaries for branch in layout.branches)


def _within(rows: range, bounds: range) -> range:
    """Return the part of the progression `rows` that lies in the contiguous `bounds`."""
    step = rows.step
    skipped = max(0, -((rows.start - bounds.start) // step))
    return range(rows.start + skipped * step, max(rows.start + skipped * step, min(rows.stop, bounds.stop)), step)
