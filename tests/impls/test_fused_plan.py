"""What ranks compute on what in fused kernels, exhaustively: each visible pair once, of rows that travelled for it."""

from collections import Counter
from collections.abc import Iterator
from itertools import combinations, product

import numpy as np
import pytest

from attention_gate import reference
from attention_gate.impls.fused import plan as fused_plan
from attention_gate.impls.fused.plan import Block, Plan, Span, chunks
from attention_gate.impls.tiling import Branch, Layout


def positions(layout: Layout, rank: int, is_zigzag: bool) -> list[int]:
    """Return the positions of a rank's rows."""
    return [row for part in layout.zigzag(rank) for row in part] if is_zigzag else list(layout.shard(rank))


def layouts(size: int, is_causal: bool) -> Iterator[Layout]:
    """Yield layouts of one and two branches, regular and not, of one rank more or less than a segment has."""
    for shard, heads in product((4, 6, 8), (1, 2, 3, 4)):
        length = size * shard
        lengths = sorted({1, 2, 3, 4, 8, shard, 2 * shard, 3 * shard, length, length + shard, length + 1})
        branches = [Branch(w, r) for w in lengths for r in (1, 2, 3, 4, 8)]
        some = [*((branch,) for branch in branches), *list(combinations(branches, 2))[::7]]
        for chosen in some:
            yield Layout(length, size, 0, heads, heads, chosen, is_causal)


def is_regular(layout: Layout) -> bool:
    """Return whether fused kernels serve, from the words of impls.fused.plan."""
    shard = layout.sequence_length // layout.world_size
    spanning = []
    for w, r in layout.branches:
        if w % r or (layout.heads % r and r < layout.heads):
            return False
        if shard % w:
            if w % shard or shard % r:
                return False
            spanning.append(r)
    least = min(spanning, default=1)
    return len(set(spanning)) < 2 or (least >= layout.heads and all(r % least == 0 for r in spanning))


def plans(layout: Layout, is_zigzag: bool = False) -> list[Plan]:
    """Return the plan of each rank."""
    made = []
    for rank in range(layout.world_size):
        one = fused_plan.plan_of.__wrapped__(with_rank(layout, rank), is_zigzag)
        assert isinstance(one, Plan), one
        made.append(one)
    return made


def with_rank(layout: Layout, rank: int) -> Layout:
    return Layout(**{**vars(layout), "rank": rank})


def buffers(layout: Layout, made: list[Plan], is_zigzag: bool) -> list[list[int]]:
    """Return which selected row of which rank, as rank x rows + row, each rank finds in each row of its buffer."""
    found = []
    for rank, plan in enumerate(made):
        assert plan.span is not None
        buffer = [-1] * plan.span.buffer_rows
        own = plan.span.own
        assert all(transfer.peer == rank for transfer in own)
        assert all(transfer.peer != rank for transfer in (*plan.span.wants, *plan.span.gives))
        for transfer in (*plan.span.wants, *own):
            assert 0 <= transfer.start < transfer.stop <= plan.span.rows
            rows = range(transfer.place, transfer.place + transfer.stop - transfer.start)
            assert {buffer[row] for row in rows} == {-1}, "a row of the buffer comes twice"
            for place, row in zip(rows, range(transfer.start, transfer.stop), strict=True):
                buffer[place] = transfer.peer * plan.span.rows + row
        assert -1 not in buffer, "a row of the buffer never comes"
        found.append(buffer)
    for rank, plan in enumerate(made):
        assert plan.span is not None
        wanted = Counter((want.peer, rank, want.start, want.stop) for want in plan.span.wants)
        given = Counter(
            (peer, give.peer, give.start, give.stop)
            for peer, other in enumerate(made)
            if other.span is not None
            for give in other.span.gives
            if give.peer == rank
        )
        assert wanted == given, "what is wanted is not what is given"
    return found


def computed(layout: Layout, is_zigzag: bool, is_backward: bool) -> tuple[np.ndarray, int]:
    """Return how often the ranks compute each pair (heads, length, length), and the fewest rows of any kernel."""
    made = plans(layout, is_zigzag)
    arrived = buffers(layout, made, is_zigzag) if made[0].span else []
    count = np.zeros((layout.heads, layout.sequence_length, layout.sequence_length), dtype=int)
    least = layout.sequence_length
    for rank, plan in enumerate(made):
        rows = positions(layout, rank, is_zigzag)
        assert plan.span is None or plan.span.rows == len(rows) // plan.span.rate
        blocks = [Block(length, rate, slice(None), None, plan.is_causal) for length, rate in plan.local]
        if plan.span:
            blocks += plan.span.backward_blocks if is_backward else plan.span.blocks
        for block, head in product(blocks, range(layout.heads)):
            assert len(rows) % block.length == 0
            offset = head % block.rate
            for segment in range(*block.segments.indices(len(rows) // block.length)):
                queries = rows[segment * block.length : (segment + 1) * block.length][offset :: block.rate]
                least = min(least, len(queries))
                keys = queries
                if block.keys is not None:
                    assert plan.span
                    assert not block.is_causal
                    keys = []
                    for place in block.keys:
                        owner, row = divmod(arrived[rank][place], plan.span.rows)
                        selected = positions(layout, owner, is_zigzag)[head % plan.span.rate :: plan.span.rate]
                        keys.append(selected[row])
                assert keys, "a kernel without keys"
                assert keys == sorted(keys)
                for place, query in enumerate(queries):
                    count[head, query, keys[: place + 1] if block.is_causal else keys] += 1
    return count, least


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_each_visible_pair_is_computed_once_in_each_branch(size: int, is_causal: bool) -> None:
    served = 0
    for layout in layouts(size, is_causal):
        made = fused_plan.plan_of.__wrapped__(layout, False)
        assert isinstance(made, Plan) == is_regular(layout), (layout, made)
        if isinstance(made, Plan):
            served += 1
            seen = reference.multiplicity(layout.sequence_length, layout.heads, layout.branches, is_causal=is_causal)
            for is_backward in (False, True):
                pairs, least = computed(layout, False, is_backward)
                assert np.array_equal(pairs, seen), layout
                assert least == made.least_rows
    assert served > 100


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_each_pair_of_the_zigzag_layout_is_computed_once(size: int) -> None:
    layout = Layout(6 * size, size, 0, 2, 1, (Branch(6 * size, 1),), True)
    for is_backward in (False, True):
        pairs, least = computed(layout, True, is_backward)
        assert np.array_equal(pairs, np.broadcast_to(np.tri(6 * size, dtype=int), pairs.shape))
        assert least == plans(layout, True)[0].least_rows == 3


@pytest.mark.parametrize(
    "layout",
    [
        Layout(12, 1, 0, 1, 1, (Branch(12, 1),), True),
        Layout(12, 2, 0, 1, 1, (Branch(12, 1),), False),
        Layout(12, 2, 0, 1, 1, (Branch(6, 1),), True),
        Layout(12, 2, 0, 1, 1, (Branch(12, 2),), True),
        Layout(12, 2, 0, 1, 1, (Branch(12, 1), Branch(12, 1)), True),
        Layout(6, 2, 0, 1, 1, (Branch(6, 1),), True),
        Layout(0, 2, 0, 1, 1, (Branch(1, 1),), True),
    ],
)
def test_what_is_not_dense_and_causal_is_not_fused_in_the_zigzag_layout(layout: Layout) -> None:
    assert isinstance(fused_plan.plan_of.__wrapped__(layout, True), str)


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4, 6])
def test_only_rows_that_are_seen_travel(size: int, is_causal: bool) -> None:
    """Rows of the finest rate, from the ranks of the longest segment, under causality from those before."""
    for w, r in ((size, 1), (2, 2), (3, 4), (size - 1, 1), (size + 1, 2)):
        layout = Layout(8 * size, size, 0, 1, 1, (Branch(8 * w, r),), is_causal)
        for rank, made in enumerate(plans(layout)):
            if made.span is None:
                assert w == 1
                continue
            first = rank // w * w
            ranks = range(first, rank if is_causal else min(size, first + w))
            assert {want.peer for want in made.span.wants} == set(ranks) - {rank}
            assert all(want.stop - want.start == 8 // r == made.span.rows for want in made.span.wants)
            assert made.span.buffer_rows == len(ranks) * made.span.rows
            assert made.span.rate == r


def span_of(rate: int, most_rows: int, kernels: int = 1) -> Span:
    return Span(rate, 8, 8, most_rows, kernels, (), (), (), (), ())


@pytest.mark.parametrize(
    ("kv_heads", "size", "elements", "parts"),
    [
        (8, 1, 0, 1),
        (8, 1, 2 << 24, 2),
        (8, 1, 64 << 24, 2),  # twice as many as ranks at most
        (8, 2, 0, 1),
        (8, 2, (2 << 24) - 1, 1),
        (8, 2, 2 << 24, 2),
        (8, 2, 64 << 24, 4),
        (8, 4, 0, 2),  # half as many as ranks at least
        (8, 5, 0, 2),
        (8, 6, 0, 4),
        (6, 4, 5 << 24, 3),
        (7, 4, 6 << 24, 7),  # nothing in between divides
        (7, 16, 0, 7),
        (1, 16, 64 << 24, 1),
    ],
)
def test_how_many_parts_rows_travel_in(kv_heads: int, size: int, elements: int, parts: int) -> None:
    assert chunks(span_of(1, 8 * size), kv_heads, size, elements) == parts
    assert chunks(span_of(2, 8 * size), kv_heads, size, elements) == 1
    assert chunks(span_of(1, 8 * size, kernels=3), kv_heads, size, 3 * elements) == parts


@pytest.mark.parametrize(("most_rows", "parts"), [(0, 1), (4, 1), (5, 2), (8, 2), (12, 2), (15, 4), (64, 16)])
def test_where_few_rows_are_seen_few_parts_hold_them(most_rows: int, parts: int) -> None:
    assert chunks(span_of(1, most_rows), 16, 8, 1 << 40) == parts


@pytest.mark.parametrize("size", [2, 3, 4, 8])
def test_how_many_kernels_a_part_takes_is_known_alike_on_all_ranks(size: int) -> None:
    length = 16 * size
    for branches, is_causal, is_zigzag in (
        ((Branch(length, 1),), True, True),
        ((Branch(length, 1),), True, False),
        ((Branch(length, 1),), False, False),
        ((Branch(length, 1), Branch(length, 1), Branch(16, 2)), True, False),
    ):
        spans = []
        for rank in range(size):
            made = fused_plan.plan_of(Layout(length, size, rank, 2, 2, branches, is_causal), is_zigzag)
            assert isinstance(made, fused_plan.Plan)
            assert made.span is not None
            spans.append(made.span)
        most = max(sum(block.keys is not None for block in span.blocks) for span in spans)
        assert {span.kernels for span in spans} == {most}


def test_a_zigzag_rank_has_as_much_to_do_as_any_other() -> None:
    for size in (2, 4, 8):
        work = []
        for rank in range(size):
            layout = Layout(size * 16, size, rank, 2, 2, (Branch(size * 16, 1),), True)
            made = fused_plan.plan_of(layout, True)
            assert isinstance(made, fused_plan.Plan)
            assert made.span is not None
            for blocks in (made.span.blocks, made.span.backward_blocks):
                pairs = 0
                for block in blocks:
                    queries = len(range(*block.segments.indices(16 // block.length))) * block.length
                    pairs += queries * (len(block.keys) if block.keys is not None else block.length // 2)
                work.append(pairs)
        assert len(set(work)) == 1


def test_no_zigzag_rank_has_more_own_keys_to_see_before_its_first_gradients_go_home() -> None:
    for size in (2, 3, 4, 8):
        own = []
        for rank in range(size):
            layout = Layout(size * 16, size, rank, 2, 2, (Branch(size * 16, 1),), True)
            made = fused_plan.plan_of(layout, True)
            assert isinstance(made, fused_plan.Plan)
            assert made.span is not None
            own.append([block for block in made.span.backward_blocks if block.keys is None])
        assert own == [own[0]] * size


@pytest.mark.parametrize("size", range(2, 9))
def test_blocks_of_the_zigzag_layout_are_the_causal_mask(size: int) -> None:
    """Each pair of query and key in one block, in both passes, whatever arrives in however many transfers."""
    half = 3
    positions = [
        [*range(rank * half, (rank + 1) * half), *range((2 * size - 1 - rank) * half, (2 * size - rank) * half)]
        for rank in range(size)
    ]
    for rank in range(size):
        layout = Layout(2 * size * half, size, rank, 1, 1, (Branch(2 * size * half, 1),), True)
        made = fused_plan.plan_of(layout, True)
        assert isinstance(made, fused_plan.Plan)
        assert made.span is not None
        buffer = [-1] * made.span.buffer_rows
        for transfer in (*made.span.wants, *made.span.own):
            rows = positions[transfer.peer][transfer.start : transfer.stop]
            assert set(buffer[transfer.place : transfer.place + len(rows)]) == {-1}
            buffer[transfer.place : transfer.place + len(rows)] = rows
        assert buffer == sorted(buffer)
        if rank == size - 1:  # its two parts follow one another, and are taken as one, forward
            assert (len(made.span.blocks), len(made.span.backward_blocks)) == (2, 3)
        for blocks in (made.span.blocks, made.span.backward_blocks):
            seen = []
            for block in blocks:
                for segment in range(*block.segments.indices(2 * half // block.length)):
                    rows = positions[rank][segment * block.length : (segment + 1) * block.length]
                    for place, query in enumerate(rows):
                        own = rows[: place + 1] if block.is_causal else rows
                        keys = own if block.keys is None else [buffer[key] for key in block.keys]
                        seen += [(query, key) for key in keys]
            assert sorted(seen) == sorted((query, key) for query in positions[rank] for key in range(query + 1))


@pytest.mark.parametrize("kv_heads", [1, 5, 6, 7, 8, 10, 13, 32])
@pytest.mark.parametrize("size", [2, 4, 8, 16])
def test_parts_are_whole_heads_and_bound_the_memory_where_heads_divide_so(size: int, kv_heads: int) -> None:
    layout = Layout(size * 64, size, 0, kv_heads, kv_heads, (Branch(size * 64, 1),), False)
    made = fused_plan.plan_of(layout, False)
    assert isinstance(made, fused_plan.Plan)
    assert made.span is not None
    for elements in (0, 1 << 20, 1 << 26, 1 << 28, 1 << 34):
        parts = fused_plan.chunks(made.span, kv_heads, size, elements)
        assert kv_heads % parts == 0
        assert parts <= 2 * size
        if any(kv_heads % count == 0 for count in range(max(1, size // 2), 2 * size + 1)):
            assert 2 * made.span.buffer_rows // parts <= 4 * 64


def test_the_memory_for_rows_under_way_does_not_grow_with_the_ranks() -> None:
    for size in (2, 4, 8, 16):
        layout = Layout(size * 1024, size, 0, 32, 32, (Branch(size * 1024, 1),), False)
        made = fused_plan.plan_of(layout, False)
        assert isinstance(made, fused_plan.Plan)
        assert made.span is not None
        parts = fused_plan.chunks(made.span, 32, size, 1 << 30)
        assert 2 * made.span.buffer_rows // parts <= 1024


@pytest.mark.parametrize(
    ("layout", "words"),
    [
        (Layout(10, 4, 0, 2, 2, (Branch(10, 1),), False), "not equal shards"),
        (Layout(12, 2, 0, 2, 2, (Branch(4, 3),), False), "does not divide segment length"),
        (Layout(12, 2, 0, 3, 3, (Branch(4, 2),), False), "does not divide 3 heads"),
        (Layout(12, 2, 0, 4, 4, (Branch(4, 2),), False), "neither whole shards"),
    ],
)
def test_what_is_not_regular_takes_another_path_and_says_why(layout: Layout, words: str) -> None:
    made = fused_plan.plan_of(layout, False)
    assert isinstance(made, str)
    assert words in made


@pytest.mark.parametrize(
    ("kv_heads", "branches", "repeats"),
    [
        (4, (Branch(4, 2),), False),
        (2, (Branch(4, 1), Branch(2, 1)), False),
        (2, (Branch(4, 1), Branch(4, 2)), True),
        (1, (Branch(4, 4),), True),
    ],
)
def test_keys_are_repeated_where_query_heads_that_share_them_select_different_rows(
    kv_heads: int, branches: tuple[Branch, ...], repeats: bool
) -> None:
    made = fused_plan.plan_of(Layout(8, 2, 0, 4, kv_heads, branches, False), False)
    assert isinstance(made, fused_plan.Plan)
    assert made.repeats_keys == repeats
