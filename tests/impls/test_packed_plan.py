"""What ranks compute on packed sequences, in integers alone: each visible pair once, of rows that arrived for it."""

from collections import Counter
from dataclasses import replace
from itertools import accumulate

import numpy as np
import pytest

from attention_gate import reference
from attention_gate.impls.fused.packed_plan import TRANSFERS, PackedPlan, packed_plan_of
from attention_gate.impls.fused.sequences import Sequences
from attention_gate.impls.tiling import Branch, Document, Layout, placed

Keys = list[tuple[int, int]]  # (rank, row) of keys, one after the other


def positions(parts: tuple[range, ...]) -> list[int]:
    return [position for part in parts for position in part]


def rows_of(layout: Layout, rank: int, is_zigzag: bool) -> tuple[list[int], list[int]]:
    """Return which row of all queries, and which of all keys, each row of a rank is."""
    if is_zigzag:
        return positions(layout.zigzag(rank)), positions(layout.zigzag(rank))
    return positions(layout.query_parts(rank)), positions(layout.parts(rank))


def plans(layout: Layout, is_zigzag: bool) -> list[PackedPlan]:
    """Return the plan of each rank."""
    made = [packed_plan_of.__wrapped__(replace(layout, rank=rank), is_zigzag) for rank in range(layout.world_size)]
    assert all(isinstance(one, PackedPlan) for one in made)
    return [one for one in made if isinstance(one, PackedPlan)]


def buffers(made: list[PackedPlan]) -> list[Keys]:
    """Return which row of which rank lies in each row of each rank's buffer; sends and receives must meet in order."""
    found: list[Keys] = []
    for rank, plan in enumerate(made):
        assert plan.span is not None
        buffer: Keys = [(-1, -1)] * plan.span.buffer_rows
        assert all(transfer.peer == rank for transfer in plan.span.own)
        assert all(transfer.peer != rank for transfer in (*plan.span.wants, *plan.span.gives))
        for transfer in (*plan.span.own, *plan.span.wants):
            assert 0 <= transfer.start < transfer.stop
            for row in range(transfer.start, transfer.stop):
                place = transfer.place + row - transfer.start
                assert buffer[place] == (-1, -1), "a row of the buffer comes twice"
                buffer[place] = transfer.peer, row
        assert (-1, -1) not in buffer, "a row of the buffer never comes"
        found.append(buffer)
        for peer, other in enumerate(made):
            assert other.span is not None
            wanted = [(want.start, want.stop) for want in plan.span.wants if want.peer == peer]
            given = [(give.start, give.stop) for give in other.span.gives if give.peer == rank]
            assert wanted == given, "what is received is not what is sent, in this order"
    return found


def agreed(made: list[PackedPlan], keys: list[int]) -> None:
    """Assert that what decides on messages and parts is the same on all ranks, and bounds what each has."""
    spans = [plan.span for plan in made]
    assert len({plan.least_rows for plan in made}) == 1
    assert len({span is None for span in spans}) == 1
    shared = {(span.rate, span.rows, span.most_rows, span.kernels) for span in spans if span}
    assert len(shared) <= 1
    for _, rows, most_rows, kernels in shared:
        assert rows == max(keys)
        assert most_rows == max(span.buffer_rows for span in spans if span)
        transfers = max(len(span.own) + len(span.wants) for span in spans if span)
        assert kernels == max(transfers // TRANSFERS, *(len(plan.of_buffer) for plan in made))


def computed(call: Sequences, keys: Keys) -> Counter[tuple[int, tuple[int, int]]]:
    """Count the pairs of a query's row and a key of one kernel, from the definition of its sequences."""
    rows, places = positions(call.queries), positions(call.keys)
    assert len(rows) == sum(call.query_lengths)
    assert len(places) == sum(call.key_lengths)
    assert len(set(places)) == len(places), "a kernel has a row of keys twice"
    pairs: Counter[tuple[int, tuple[int, int]]] = Counter()
    first_query = first_key = 0
    for queries, seen in zip(call.query_lengths, call.key_lengths, strict=True):
        hit = [False] * seen
        assert queries
        for query in range(queries):
            beside = query + seen - queries
            first = 0 if call.left is None else max(0, beside - call.left)
            last = seen if call.right is None else min(seen, beside + call.right + 1)
            assert first < last, "a query of a kernel sees no key"
            for key in range(first, last):
                hit[key] = True
                pairs[rows[first_query + query], keys[places[first_key + key]]] += 1
        assert all(hit), "a kernel is given a key that it does not need"
        first_query, first_key = first_query + queries, first_key + seen
    return pairs


def sees_within(seen: np.ndarray, keys: list[int]) -> bool:
    """Return whether all keys that a query sees are among these."""
    return bool(seen.sum() == seen[keys].sum())


def check(layout: Layout, is_zigzag: bool, seen: np.ndarray) -> None:
    """Compare what all ranks compute with which query sees which key, (queries, keys)."""
    made = plans(layout, is_zigzag)
    owned = [rows_of(layout, rank, is_zigzag) for rank in range(layout.world_size)]
    agreed(made, [len(keys) for _, keys in owned])
    assert made[0].least_rows == min(len(rows) for both in owned for rows in both)
    arrived = buffers(made) if made[0].span else [[] for _ in made]
    count = np.zeros_like(seen)
    for rank, (plan, (queries, keys)) in enumerate(zip(made, owned, strict=True)):
        assert set(positions(plan.blind)) == {row for row, query in enumerate(queries) if not seen[query].any()}
        if len(placed(layout.zigzag(rank) if is_zigzag else layout.parts(rank))) == 1:
            there = [row for row, query in enumerate(queries) if seen[query].any() and sees_within(seen[query], keys)]
            near = [row for call in plan.own for row in positions(call.queries)]
            assert sorted(near) == there, "rows travel for queries that see none of others"
        if plan.span:
            read = {row for call in plan.of_buffer for row in positions(call.keys)}
            assert read == set(range(plan.span.buffer_rows)), "rows travel that no kernel reads"
        once = Counter(positions(plan.blind))
        calls = [(call, [(rank, row) for row in range(len(keys))]) for call in plan.own]
        for call, there in [*calls, *((call, arrived[rank]) for call in plan.of_buffer)]:
            once.update(positions(call.queries))
            for (query, (owner, row)), times in computed(call, there).items():
                count[queries[query], owned[owner][1][row]] += times
        assert once == Counter(range(len(queries))), "a query is not computed exactly once"
    assert np.array_equal(count, seen), (layout, is_zigzag)


def drawn(source: np.random.Generator) -> tuple[Layout, bool, np.ndarray]:
    """Return a layout, whether it is in zigzag order, and which query sees which key; any rank may have no rows."""
    size, keys = int(source.integers(1, 9)), int(source.integers(1, 41))
    lengths = of_queries = None
    queries = keys
    kind = str(source.choice(["contiguous", "zigzag", "document-zigzag"]))
    if kind == "document-zigzag" or source.integers(3):
        count = int(source.integers(1, 9))
        cuts = np.sort(source.integers(0, keys + 1, count))
        lengths = of_queries = [int(length) for length in np.diff(cuts, prepend=0)]
        if kind == "zigzag" and source.integers(2):
            of_queries = [int(length) for length in source.permutation(lengths)]
        if kind == "contiguous" and source.integers(2):
            of_queries = [int(length) for length in source.integers(0, 9, count)]
            queries = max(1, sum(of_queries)) + int(source.integers(3))
    elif kind == "contiguous" and source.integers(2):
        queries = int(source.integers(1, 41))
    left, right = (int(source.integers(0, 14)) if source.integers(2) else None for _ in range(2))
    is_causal = bool(source.integers(2))
    documents = None
    if lengths is not None and of_queries is not None:
        firsts = zip(accumulate(of_queries, initial=0), accumulate(lengths, initial=0), strict=True)
        starts = list(firsts)[:-1]
        documents = tuple(
            Document(first_query, count, first_key, length)
            for (first_query, first_key), count, length in zip(starts, of_queries, lengths, strict=True)
        )
    branches = (Branch(keys, 1),)
    layout = Layout(
        keys, size, 0, 1, 1, branches, is_causal, queries, documents, (left, right), by_document=kind[0] == "d"
    )
    seen = reference.multiplicity(
        keys, 1, branches, is_causal,
        query_length=queries, document_lengths=lengths, query_lengths=of_queries, window=(left, right),
    )  # fmt: skip
    return layout, kind == "zigzag" and size > 1, seen[0]


@pytest.mark.parametrize("first", [0, 100])
def test_each_visible_pair_is_computed_once_of_rows_that_arrive(first: int) -> None:
    travelling = 0
    for seed in range(first, first + 100):
        layout, is_zigzag, seen = drawn(np.random.default_rng(seed))
        check(layout, is_zigzag, seen)
        made = packed_plan_of.__wrapped__(layout, is_zigzag)
        travelling += isinstance(made, PackedPlan) and made.span is not None
    assert travelling > 30


@pytest.mark.parametrize(
    ("lengths", "size", "window", "by_document"),
    [
        # Of rows 8 to 15 two need a bound; three of the next document, whose keys lie further, must not have it.
        ((13, 15, 4), 4, (2, None), False),
        # Of those that need no bound the shortest comes last, before one that has a bound.
        ((1, 9, 7, 11, 2, 0, 3, 5), 4, (None, 8), True),
        # More transfers than kernels.
        ((3, 5) * 12, 3, (None, None), True),
    ],
)
def test_documents_of_one_kernel(
    lengths: tuple[int, ...], size: int, window: tuple[int | None, int | None], by_document: bool
) -> None:
    rows, firsts = sum(lengths), accumulate(lengths, initial=0)
    # The rows after the last document are none's.
    documents = tuple(Document(first, each, first, each) for first, each in zip(firsts, lengths[:-1], strict=False))
    branches = (Branch(rows, 1),)
    layout = Layout(rows, size, 0, 1, 1, branches, False, None, documents, window, by_document=by_document)
    seen = reference.multiplicity(rows, 1, branches, document_lengths=lengths[:-1], window=window)
    check(layout, False, seen[0])
