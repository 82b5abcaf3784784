"""The sampled oracle: equal to the dense one on random cases with every term, and read in pieces."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_gate import reference
from attention_gate.reference import _passes, _tiles
from tests.reference import cases as plain
from tests.reference import optional
from tests.reference.cases import assert_close, reproducible

DIALECTS = st.sampled_from(reference.DIALECTS)


def rows_of(draw, length):
    """Some ascending rows, often all or none."""
    few = st.sets(st.integers(0, length - 1)) if length else st.just(set())
    return sorted(draw(st.one_of(few, st.just(set(range(length))))))


def check(arrays, options, queries, keys, bound):
    """Every result at these rows is the dense oracle's, up to the bound of its name."""
    query, key, value, grad_out = arrays
    out, lse = reference.dilated_attention(query, key, value, **options)
    gradients = reference.dilated_attention_gradients(query, key, value, grad_out, **options)
    at = reference.sampled_attention(*arrays, queries=queries, keys=keys, **options)
    assert_close(at.out, out[:, queries], bound["out"], "out")
    assert_close(at.lse, lse[:, :, queries], bound["lse"], "lse")
    assert_close(at.query, gradients.query[:, queries], bound["query"], "gradient of query")
    assert_close(at.key, gradients.key[:, keys], bound["key"], "gradient of key")
    assert_close(at.value, gradients.value[:, keys], bound["value"], "gradient of value")
    if len(queries) == query.shape[1]:
        whole = gradients.sink if len(gradients) == 4 else np.zeros(query.shape[2])
        assert_close(at.sink.sum(axis=(0, 2)), whole, 1e-12, "gradient of the sink")


@pytest.fixture(autouse=True)
def small_tiles(monkeypatch):
    """So that small cases have many tiles, and hardly a row is kept."""
    monkeypatch.setattr(_tiles, "TILE_KEYS", 3)
    monkeypatch.setattr(_tiles, "TILE_QUERIES", 2)
    monkeypatch.setattr(_passes, "KEPT_BYTES", 200)


@settings(reproducible, max_examples=1000)
@given(st.data(), optional.cases())
def test_a_thousand_random_cases_with_optional_terms(data, case):
    rounding = dict.fromkeys(("out", "lse", "query", "key", "value"), 1e-12)
    queries, keys = rows_of(data.draw, case.queries), rows_of(data.draw, case.keys)
    check(case.arrays(), case.options(), queries, keys, rounding)


@settings(reproducible, max_examples=1000)
@given(st.data(), plain.cases(), DIALECTS)
def test_a_thousand_random_schedules_in_every_dialect(data, case, dialect):
    queries, keys = rows_of(data.draw, case.length), rows_of(data.draw, case.length)
    check(case.arrays(), {**case.schedule, "scale": case.scale, "dialect": dialect}, queries, keys, plain.bounds(case))


class Counting:
    """Rows of an array, and how many were read at once and in all."""

    def __init__(self, array):
        self.array, self.most, self.read = array, 0, set()
        self.shape = array.shape

    def __getitem__(self, at):
        _, rows = at
        self.most = max(self.most, len(rows))
        self.read |= set(rows.tolist())
        return self.array[:, rows]


SCHEDULE = {"segment_lengths": [8, 64], "dilation_rates": [1, 8], "is_causal": True}


def long_case(length=64):
    generator = np.random.default_rng(3)
    return tuple(generator.normal(size=(1, length, 2, 3)) for _ in range(4))


def test_only_rows_that_count_are_read_and_few_at_once():
    arrays = [Counting(array) for array in long_case()]
    reference.sampled_attention(*arrays, queries=[17], keys=[], **SCHEDULE)
    query, key, value, grad_out = arrays
    # Head 0 selects multiples of 8 in the long branch, head 1 the position after each: 17 is seen by the second.
    assert query.read == grad_out.read == {17}
    assert key.read == value.read == {16, 17} | {1, 9}
    reference.sampled_attention(*arrays, queries=[], keys=[20], **SCHEDULE)
    assert query.read == grad_out.read == {17} | set(range(20, 24))
    assert max(array.most for array in arrays) <= 4


def test_memory_mapped_arrays_are_read_as_arrays(tmp_path):
    arrays = long_case()
    mapped = []
    for number, array in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", array)
        mapped.append(np.load(tmp_path / f"{number}.npy", mmap_mode="r"))
    rows = {"queries": [0, 40], "keys": [1, 33]}
    for one, other in zip(
        reference.sampled_attention(*mapped, **rows, **SCHEDULE),
        reference.sampled_attention(*arrays, **rows, **SCHEDULE),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


def test_the_cost_is_that_of_the_index_sets(monkeypatch):
    """A query of this schedule sees at most 8 keys in each branch, whatever the length."""
    monkeypatch.setattr(_tiles, "TILE_KEYS", 1 << 20)
    shape = (1, 1 << 20, 2, 3)
    schedule = {"segment_lengths": [8, 1 << 20], "dilation_rates": [1, 1 << 17]}
    seen = reference.sampled_scores(shape, shape, queries=[5, 1 << 19], keys=[], **schedule)
    # In the long branch head 0 selects 2^19 and head 1 neither; outputs and gradients of queries are two passes.
    assert seen == 2 * (2 * 2 * 8 + 8)


def test_refusals():
    arrays = long_case()
    with pytest.raises(ValueError, match=r"queries must be ascending row indices from 0 to 63 .* got \[3, 3\]"):
        reference.sampled_attention(*arrays, queries=[3, 3], keys=[], **SCHEDULE)
    with pytest.raises(ValueError, match=r"keys must be ascending row indices from 0 to 63 .* got \[64\]"):
        reference.sampled_attention(*arrays, queries=[], keys=[64], **SCHEDULE)
    with pytest.raises(TypeError, match="keys must hold integers, got dtype float64"):
        reference.sampled_attention(*arrays, queries=[], keys=[0.5], **SCHEDULE)
    with pytest.raises(ValueError, match=r"value must share \(batch, length, kv_heads\) with key"):
        reference.sampled_attention(*arrays[:2], arrays[2][:, :9], arrays[3], queries=[], keys=[], **SCHEDULE)
    with pytest.raises(TypeError, match="there is no option 'causal'"):
        reference.sampled_attention(*arrays, queries=[], keys=[], **SCHEDULE, causal=True)
