"""The bounds by whole rows are no less than those by pairs, for which no correct implementation was ever wrong."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.oracle import answer, inputs_of
from attention_gate.verify.long.chosen_rows import Chosen
from attention_gate.verify.long.long_cases import keys_of_a_query, with_terms
from attention_gate.verify.long.row_bounds import Largest, row_bounds
from attention_gate.verify.long.sampled_verdict import sampled_answer
from tests.reference.cases import reproducible


@st.composite
def cases(draw):
    length = draw(st.integers(2, 20))
    branches = draw(st.lists(st.tuples(st.integers(1, length), st.integers(1, 4)), min_size=1, max_size=3))
    kv_heads = draw(st.integers(1, 2))
    case = Case(
        length=length,
        batch=draw(st.integers(1, 2)),
        heads=kv_heads * draw(st.integers(1, 2)),
        kv_heads=kv_heads,
        head_dim=draw(st.integers(1, 4)),
        value_dim=draw(st.integers(1, 4)),
        segment_lengths=tuple(w for w, _ in branches),
        dilation_rates=tuple(r for _, r in branches),
        is_causal=draw(st.booleans()),
        dtype=draw(st.sampled_from(["float64", "float32", "bfloat16"])),
        data=draw(st.sampled_from(["normal", "sharp", "offset", "zeros", "one-sided"])),
        seed=draw(st.integers(0, 99)),
    )
    terms = draw(st.sets(st.sampled_from(["window", "documents", "mask", "softcap", "slopes", "sink"])))
    return with_terms(case, tuple(sorted(terms)))


def largest_of(case):
    inputs = inputs_of(case)

    def of(array):
        return float(np.abs(array).max()), float(np.sqrt((array**2).sum(axis=-1)).max())

    return Largest(of(inputs.query), of(inputs.key), of(inputs.value), of(inputs.upstream))


@pytest.mark.parametrize("dialect", ["longnet", "grouped-mean"])
@reproducible
@given(cases())
def test_they_are_no_less_than_the_bounds_by_pairs(dialect, case):
    if dialect == "grouped-mean" and case.sink is not None:
        return
    right = answer(case, dialect)
    rows = np.arange(case.length)
    sampled = sampled_answer(case, Chosen(rows, rows, (0, 0)), dialect)
    branches = len(case.segment_lengths)
    bounds = row_bounds(
        case,
        largest_of(case),
        sampled.expected,
        keys_seen=keys_of_a_query(case),
        queries_seen=branches * case.length,
        column_sums=sampled.column_sums * (branches if dialect == "grouped-mean" else 1),
        share=1 / branches if dialect == "grouped-mean" else 1.0,
    )
    for name, bound in bounds.items():
        assert (bound >= right.budget[name] * (1 - 1e-9)).all(), name


def test_the_sampled_answer_has_the_columns_sums_of_the_weights():
    """Each row's weights have the sum 1, so that those of the columns add up to the number of rows."""
    case = Case(length=9, heads=2, kv_heads=1, segment_lengths=(9,), dilation_rates=(1,))
    rows = np.arange(9)
    assert np.isclose(sampled_answer(case, Chosen(rows, rows, (0, 0)), "longnet").column_sums.sum(), 2 * 9)
