"""What each rank computes where documents, a window or a soft cap make a call more than plain dense. Integers only.

Each query is in one sequence, against all keys that it sees: no results are merged. Sequences of which this rank has
all keys are computed while rows of other ranks travel; the keys of the others, own ones among them, lie in one buffer
in the order of positions.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from attention_gate.impls.fused.plan import Span, Transfer
from attention_gate.impls.fused.sequences import SequenceCall, Sequences
from attention_gate.impls.tiling import Layout, Placed, placed, reaching, tiles

# The host needs about as long to begin so many transfers as to begin a kernel.
TRANSFERS = 8


@dataclass(frozen=True)
class PackedPlan:
    """What one rank computes: sequences of own keys, and sequences of rows of the buffer."""

    own: tuple[Sequences, ...]
    span: Span | None  # None where no rank needs rows of another
    of_buffer: tuple[Sequences, ...]
    blind: tuple[range, ...]  # this rank's queries that see nothing
    least_rows: int  # the fewest rows of queries or keys that a rank has


class _Problem(NamedTuple):
    """One sequence: rows of queries of this rank, their positions, and the positions of keys."""

    rows: range
    queries: range
    keys: range


class _Owner(NamedTuple):
    """Positions that a rank has, and the position that its row 0 would have if they went on to there."""

    rows: range
    rank: int
    origin: int


def is_packed(layout: Layout, softcap: float | None) -> bool:
    """Return whether a call has terms that kernels of packed sequences are needed for."""
    differs = layout.query_length not in (None, layout.sequence_length)
    is_bounded = layout.documents is not None or layout.window != (None, None)
    return softcap is not None or differs or is_bounded or layout.by_document


@lru_cache(maxsize=64)
def packed_plan_of(layout: Layout, is_zigzag: bool) -> PackedPlan | str:
    """Return what the layout's rank computes, or why fused kernels do not serve: the same answer on every rank."""
    if not layout.is_dense:
        return "with documents, windows, soft caps or other numbers of queries only dense attention is fused"
    ranks = range(layout.world_size)
    owners = [_Owner(*each, rank) for rank in ranks for each in placed(_keys(layout, is_zigzag, rank))]
    owners = sorted((_Owner(rows, rank, origin) for rows, origin, rank in owners), key=lambda owner: owner.rows.start)
    problems = [_split(layout, is_zigzag, rank) for rank in ranks]
    needed = [_union(problem.keys for problem in far) for _, far in problems]
    calls = [_grouped(far, _Places(ranges), layout) for (_, far), ranges in zip(problems, needed, strict=True)]
    wants = [_wants(rank, ranges, owners, layout.world_size) for rank, ranges in enumerate(needed)]
    rank = layout.rank
    span = None
    if any(wants):
        gives = [
            Transfer(peer, want.start, want.stop, 0)
            for peer in sorted(ranks, key=lambda peer: (peer - rank) % layout.world_size)
            for want in wants[peer]
            if want.peer == rank != peer
        ]
        own = tuple(want for want in wants[rank] if want.peer == rank)
        others = tuple(want for want in wants[rank] if want.peer != rank)
        most = max(sum(map(len, _keys(layout, is_zigzag, each))) for each in ranks)
        kernels = max(*map(len, calls), *(len(rows) // TRANSFERS for rows in wants))
        seen = [sum(map(len, ranges)) for ranges in needed]
        span = Span(1, most, seen[rank], max(seen), kernels, own, others, tuple(gives), (), ())
    near, far = problems[rank]
    here = [Placed(owner.rows, owner.origin) for owner in owners if owner.rank == rank]
    seeing = _union(problem.rows for problem in [*near, *far])
    queries = [sum(map(len, _queries(layout, is_zigzag, each))) for each in ranks]
    keys = [sum(map(len, _keys(layout, is_zigzag, each))) for each in ranks]
    return PackedPlan(
        _grouped(near, _Places(here), layout),
        span,
        calls[rank],
        tuple(_gaps(seeing, queries[rank])),
        min(*queries, *keys),
    )


def _keys(layout: Layout, is_zigzag: bool, rank: int) -> tuple[range, ...]:
    return layout.zigzag(rank) if is_zigzag else layout.parts(rank)


def _queries(layout: Layout, is_zigzag: bool, rank: int) -> tuple[range, ...]:
    return layout.zigzag(rank) if is_zigzag else layout.query_parts(rank)


def _split(layout: Layout, is_zigzag: bool, rank: int) -> tuple[list[_Problem], list[_Problem]]:
    """Return the sequences of which a rank has all keys, and those of which it does not."""
    [branch] = layout.branches
    own = sorted((rows for rows, _ in placed(_keys(layout, is_zigzag, rank))), key=lambda rows: rows.start)
    starts = [rows.start for rows in own]
    near: list[_Problem] = []
    far: list[_Problem] = []
    for rows, origin in placed(_queries(layout, is_zigzag, rank)):
        for keys in layout.keys_of_documents(rows):
            beside = own[max(0, bisect_right(starts, keys.start) - 1) : bisect_right(starts, keys.stop)]
            for tile in tiles(layout, branch, rows, keys):
                first_row = tile.queries.start - tile.shift - origin
                for queries, is_near in _by_nearness(tile.queries, tile.keys, beside, layout.reach):
                    start = first_row + queries.start - tile.queries.start
                    _, seen = reaching(layout.reach, queries, tile.keys)
                    (near if is_near else far).append(_Problem(range(start, start + len(queries)), queries, seen))
    return near, far


def _by_nearness(
    queries: range, keys: range, own: Iterable[range], reach: tuple[int | None, int | None]
) -> Iterator[tuple[range, bool]]:
    """Yield the parts of a sequence's queries, and whether all that each sees lies in one part of what the rank has."""
    left, right = reach
    for part in own:
        start, stop = queries.start, queries.stop
        if keys.start < part.start:
            start = stop if left is None else max(start, part.start + left)
        if keys.stop > part.stop:
            stop = start if right is None else min(stop, part.stop - right)
        if start < stop:
            parts = [(range(queries.start, start), False), (range(start, stop), True)]
            yield from (entry for entry in [*parts, (range(stop, queries.stop), False)] if entry[0])
            return
    yield queries, False


def _union(ranges: Iterable[range]) -> list[range]:
    """Return ranges as few ones, in order, that have the same members."""
    found: list[range] = []
    for one in sorted(ranges, key=lambda one: one.start):
        if found and one.start <= found[-1].stop:
            found[-1] = range(found[-1].start, max(found[-1].stop, one.stop))
        elif one:
            found.append(one)
    return found


def _gaps(ranges: Sequence[range], stop: int) -> Iterator[range]:
    """Yield what lies between ranges in order, from 0 on."""
    start = 0
    for one in [*ranges, range(stop, stop)]:
        if one.start > start:
            yield range(start, one.start)
        start = one.stop


class _Places:
    """Where rows of contiguous positions lie: in a buffer one after the other, or where a rank has them."""

    def __init__(self, ranges: Sequence[range] | Sequence[Placed]) -> None:
        pairs = [(one.rows, one.origin) if isinstance(one, Placed) else (one, None) for one in ranges]
        self._starts = [rows.start for rows, _ in pairs]
        self._first_rows: list[int] = []
        before = 0
        for rows, origin in pairs:
            self._first_rows.append(before if origin is None else rows.start - origin)
            before += len(rows)

    def of(self, positions: range) -> range:
        """Return the rows of contiguous positions."""
        number = bisect_right(self._starts, positions.start) - 1
        first = self._first_rows[number] + positions.start - self._starts[number]
        return range(first, first + len(positions))


def _wants(rank: int, needed: Sequence[range], owners: Sequence[_Owner], world_size: int) -> list[Transfer]:
    """Return where the rows that a rank's buffer holds come from, its own included, the next rank before it first."""
    starts = [owner.rows.start for owner in owners]
    found, place = [], 0
    for ranges in needed:
        position = ranges.start
        while position < ranges.stop:
            owner = owners[bisect_right(starts, position) - 1]
            stop = min(ranges.stop, owner.rows.stop)
            found.append(Transfer(owner.rank, position - owner.origin, stop - owner.origin, place))
            place, position = place + stop - position, stop
    return sorted(found, key=lambda want: ((rank - want.peer) % world_size, want.place))


def _grouped(problems: Iterable[_Problem], places: _Places, layout: Layout) -> tuple[Sequences, ...]:
    """Return the sequences as few kernels compute them."""
    left, right = layout.reach
    calls: list[SequenceCall] = []
    for problem in sorted(problems, key=lambda problem: problem.rows.start):
        ahead = problem.keys[-1] - problem.queries[-1]
        bounds = None if left is None else left + ahead, None if right is None else right - ahead
        keys = places.of(problem.keys)
        if not any(call.takes(problem.rows, keys, *bounds) for call in calls):
            calls.append(SequenceCall())
            calls[-1].takes(problem.rows, keys, *bounds)
    return tuple(call.made() for call in calls)
