"""The plan, exhaustively: each visible pair once, on the rank that owns the query; each row that travels is needed."""

from unittest.mock import Mock, patch

import numpy as np
import pytest

from attention_gate.impls import tiling
from attention_gate.impls.tiling import Branch, Layout, any_row_travels, bounded_branches, needed_rows, tiles

# Four heads reach the offsets 0 to 3 and, at rates below 4, heads that share one. A larger offset only shifts the rows.
HEADS, KV_HEADS = 4, 2


def visible_pairs(length: int, branch: Branch, is_causal: bool, heads: int = HEADS) -> np.ndarray:
    """Return whether query i of head h sees key j, from the definition."""
    segment_length, rate = branch
    position = np.arange(length)
    selected = position % segment_length % rate == (np.arange(heads) % rate)[:, None]
    seen = (position[:, None] // segment_length == position // segment_length) & (
        (position <= position[:, None]) if is_causal else True
    )
    return selected[:, :, None] & selected[:, None, :] & seen


def computed_pairs(layout: Layout, branch: Branch) -> np.ndarray:
    """Return how often the ranks compute each pair, as the tiles of all ranks and sources say."""
    length = layout.sequence_length
    shards = [layout.shard(rank) for rank in range(layout.world_size)]
    earlier = np.tri(length, dtype=np.int64)
    counts = np.zeros((layout.heads, length, length), dtype=np.int64)
    for queries in shards:
        for keys in shards:
            for tile in tiles(layout, branch, queries, keys):
                assert queries.start <= tile.queries[0] <= tile.queries[-1] < queries.stop
                assert keys.start <= tile.keys[0] <= tile.keys[-1] < keys.stop
                rows, columns = slice_of(tile.queries), slice_of(tile.keys)
                if layout.is_causal:
                    assert tile.keys[0] <= tile.queries[0], "a query that sees nothing"
                    assert tile.keys[-1] <= tile.queries[-1], "a key that nothing sees"
                counts[slice_of(tile.heads), rows, columns] += earlier[rows, columns] if layout.is_causal else 1
    return counts


def slice_of(rows: range) -> slice:
    return slice(rows.start, rows.stop, rows.step)


@pytest.mark.parametrize("length", range(21))
def test_each_visible_pair_is_computed_once_and_each_travelling_row_is_needed(length: int) -> None:
    for world_size, is_causal in ((size, causal) for size in range(1, 6) for causal in (False, True)):
        for segment_length, rate in ((w, r) for w in range(1, length + 2) for r in range(1, length + 2)):
            branch = Branch(segment_length, rate)
            layout = Layout(length, world_size, 0, HEADS, KV_HEADS, (branch,), is_causal)
            visible = visible_pairs(length, branch, is_causal)
            assert np.array_equal(computed_pairs(layout, branch), visible), layout
            assert_needed(layout, visible)


def assert_needed(layout: Layout, visible: np.ndarray) -> None:
    """Assert that each rank is sent exactly the rows of each kv head that its queries see."""
    length, ranks = layout.sequence_length, range(layout.world_size)
    per_kv_head = visible.reshape(layout.kv_heads, layout.heads // layout.kv_heads, length, length).any(1)
    travels = False
    for destination in ranks:
        owned = layout.shard(destination)
        needed = per_kv_head[:, owned.start : owned.stop].any(1).T
        marks = b"".join(needed_rows(layout, destination, source) for source in ranks)
        assert np.array_equal(np.frombuffer(marks, dtype=bool).reshape(length, layout.kv_heads), needed), layout
        travels = travels or bool(np.delete(needed, owned, axis=0).any())
    assert any_row_travels(layout) or not travels, layout


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
@pytest.mark.parametrize("branches", [(Branch(6, 1), Branch(12, 2), Branch(12, 3)), (Branch(12, 1), Branch(6, 1))])
def test_rows_that_several_branches_need_travel_once(branches: tuple[Branch, ...], kv_heads: int) -> None:
    for is_causal in (False, True):
        layout = Layout(12, 3, 0, HEADS, kv_heads, branches, is_causal)
        visible = np.any([visible_pairs(12, branch, is_causal) for branch in branches], axis=0)
        assert_needed(layout, visible)


def test_nothing_travels_where_segments_lie_inside_shards() -> None:
    assert not any_row_travels(Layout(12, 3, 0, HEADS, KV_HEADS, (Branch(4, 1), Branch(2, 2)), False))
    assert any_row_travels(Layout(12, 3, 0, HEADS, KV_HEADS, (Branch(4, 1), Branch(3, 1)), False))


@pytest.mark.parametrize("length", range(13))
def test_the_order_of_rows_means_nothing_where_all_see_all_on_even_shards(length: int) -> None:
    branches = [Branch(w, r) for w in range(1, max(1, length) + 1) for r in range(1, 4)]
    lists = [(one,) for one in branches] + [(one, other) for one in branches for other in branches[:4]]
    for world_size, is_causal in ((size, causal) for size in range(1, 4) for causal in (False, True)):
        for chosen in lists if length else [(Branch(1, 1),) * count for count in (1, 2)]:
            layout = Layout(length, world_size, 0, 2, 2, tuple(chosen), is_causal)
            halves = {len(half) for rank in range(world_size) for half in layout.zigzag(rank)}
            sees_all = all(visible_pairs(length, branch, False, 2).all() for branch in chosen)
            assert layout.is_symmetric == (len(halves) == 1 and not is_causal and sees_all), layout


def test_no_segment_is_looked_at_that_lies_before_the_queries_or_the_keys() -> None:
    layout = Layout(1000, 10, 0, 1, 1, (Branch(2, 1),), False)
    with patch.object(tiling, "_within", Mock(wraps=tiling._within)) as within:
        for queries, keys in ((0, 9), (9, 0), (4, 5), (5, 4)):
            assert list(tiles(layout, Branch(2, 1), layout.shard(queries), layout.shard(keys))) == []
        assert not within.called
        assert len(list(tiles(layout, Branch(2, 1), layout.shard(9), layout.shard(9)))) == 50
        assert within.call_count == 100


def test_shards_are_those_of_tensor_split() -> None:
    for length in range(12):
        for world_size in range(1, 6):
            layout = Layout(length, world_size, 0, 1, 1, (), False)
            expected = [list(rows) for rows in np.array_split(np.arange(length), world_size)]
            assert [list(layout.shard(rank)) for rank in range(world_size)] == expected


@pytest.mark.parametrize("length", range(6))
@pytest.mark.parametrize("heads", [1, 3, 7])
def test_cutting_long_segments_and_high_rates_changes_nothing(length: int, heads: int) -> None:
    for segment_length in (1, 2, 5, 9, 10**30):
        for rate in (1, 2, 5, 6, 7, 8, 10**30):
            (cut,) = bounded_branches((segment_length,), (rate,), length, heads)
            assert max(cut) <= max(1, length, heads)
            small = Branch(min(segment_length, 100), min(rate, 100))
            assert np.array_equal(
                visible_pairs(length, cut, False, heads), visible_pairs(length, small, False, heads)
            ), (segment_length, rate)
