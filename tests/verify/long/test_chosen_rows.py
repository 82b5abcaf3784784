"""How many queries see a key: what a key costs, and what the bounds of its gradients follow from."""

from hypothesis import given
from hypothesis import strategies as st

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.masks import branch_masks
from attention_gate.verify.long.chosen_rows import queries_that_see
from attention_gate.verify.long.long_cases import keys_of_a_query
from tests.reference.cases import reproducible


@st.composite
def cases(draw):
    length, heads = draw(st.integers(1, 20)), draw(st.integers(1, 4))
    branches = draw(st.lists(st.tuples(st.integers(1, length + 2), st.integers(1, 4)), min_size=1, max_size=3))
    bound = st.none() | st.integers(0, 4)
    return Case(
        length=length,
        heads=heads,
        kv_heads=heads,
        segment_lengths=tuple(w for w, _ in branches),
        dilation_rates=tuple(r for _, r in branches),
        is_causal=draw(st.booleans()),
        window=draw(st.none() | st.tuples(bound, bound)),
    )


@reproducible
@given(cases(), st.sampled_from(reference.DIALECTS))
def test_no_more_queries_and_keys_see_each_other_than_are_counted(case, dialect):
    seen = branch_masks(case, dialect).sum(axis=0)
    assert seen.sum(axis=2).max() <= keys_of_a_query(case)
    for key in range(case.length):
        assert seen[:, :, key].sum(axis=1).max() <= queries_that_see(case, key)


def test_a_window_that_is_open_to_one_side_bounds_nothing():
    case = Case(length=1000, segment_lengths=(1000,), dilation_rates=(1,), window=(20, None))
    assert queries_that_see(case, 900) == keys_of_a_query(case) == 1000
    assert queries_that_see(case.replace(is_causal=True), 900) == keys_of_a_query(case.replace(is_causal=True)) == 21
