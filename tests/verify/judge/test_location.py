"""The first wrong element in the caller's terms: rank, row, head, branch, and the hops that brought the key."""

import numpy as np
import pytest

from attention_gate.verify.judge.location import describe
from attention_gate.verify.judge.oracle import answer
from attention_gate.verify.target.layouts import striped
from tests.verify.cases import case_of, shards_of


def lines(case, name, *indices, layout=None, value=None, dialect="longnet"):
    """What is said of results that are wrong at these places."""
    right = answer(case, dialect)
    share = np.zeros_like(right.expected[name])
    got = right.expected[name].copy()
    for index in indices:
        share[index] = 1e12
        got[index] = got[index] + 1.0 if value is None else value
    positions = shards_of(case, layout) if layout else shards_of(case)
    reported, element = describe(case, positions, name, got, right, share)
    assert (element.batch, element.head, element.position) == _place(name, indices)
    return reported


def _place(name, indices):
    """Batch, head and position of the first of them in the order of positions."""
    axis = 2 if name == "lse" else 1
    index = min(indices, key=lambda index: (index[axis], *index[:axis], *index[axis + 1 :]))
    return index[0], index[3 - axis], index[axis]


CASE = case_of(world_size=3, length=7, batch=2, segment_lengths=(5, 4), dilation_rates=(2, 1), is_causal=True)


def test_the_first_in_the_order_of_positions_is_reported():
    reported = lines(CASE, "out", (1, 6, 0, 0), (0, 3, 2, 1), (0, 3, 3, 0))
    assert reported[0] == "first wrong element: out[batch 0, position 3, head 2, dim 1], row 0 of rank 1"
    right = answer(CASE).expected["out"][0, 3, 2, 1]
    off = "off by 1, 10^12 times the rounding error that is allowed"
    assert reported[1] == f"  expected {right:.9g}, got {right + 1:.9g}: {off}"


def test_a_query_is_reported_with_the_keys_it_sees_and_who_has_them():
    # Head 2 has offset 0 at rate 2: of the segment 0-4 it sees 0, 2, 4; position 3 is none of them. Branch 1 is dense.
    assert lines(CASE, "out", (0, 3, 2, 1))[2] == (
        "  the query at position 3 sees keys 0 (rank 0, 1 hop away; branch 1), 1 (rank 0, 1 hop away; branch 1), "
        "2 (rank 0, 1 hop away; branch 1), 3 (rank 1; branch 1)"
    )
    # Position 2 is seen in both branches, and what it sees twice is reported so.
    assert "0 (rank 0; branch 0 and 1)" in lines(CASE, "out", (0, 2, 2, 0))[2]


def test_a_key_is_reported_with_the_queries_that_see_it():
    reported = lines(CASE, "key.grad", (0, 5, 1, 0))
    assert reported[0] == "first wrong element: key.grad[batch 0, position 5, kv head 1, dim 0], row 0 of rank 2"
    assert reported[2] == "  the key at position 5 is seen by queries 5 (rank 2; branch 0 and 1), 6 (rank 2; branch 1)"


def test_an_lse_has_no_dim():
    assert lines(CASE, "lse", (1, 3, 6))[0] == "first wrong element: lse[batch 1, position 6, head 3], row 1 of rank 2"


def test_hops_go_round_the_ring():
    case = case_of(world_size=3, length=6, segment_lengths=(6,), dilation_rates=(1,))
    assert "5 (rank 2, 1 hop away)" in lines(case, "out", (0, 0, 0, 0))[2]
    assert "2 (rank 1, 2 hops away)" in lines(case, "out", (0, 0, 0, 0))[2]
    assert "5 (rank 2, 2 hops away)" in lines(case, "value.grad", (0, 0, 0, 0))[2]


def test_ranks_of_a_sub_group_have_their_global_numbers():
    case = case_of(world_size=4, group=(1, 3), length=6, segment_lengths=(6,), dilation_rates=(1,))
    reported = lines(case, "out", (0, 4, 0, 0))
    assert reported[0].endswith("row 1 of rank 3")
    assert "0 (rank 1, 1 hop away)" in reported[2]


def test_rows_are_those_of_the_layout():
    assert lines(CASE, "out", (0, 5, 0, 0), layout=striped)[0].endswith("row 1 of rank 2")


def test_a_row_that_sees_nothing_is_reported_as_such():
    case = case_of(world_size=1, length=4, segment_lengths=(2,), dilation_rates=(3,))
    assert lines(case, "out", (0, 0, 1, 0))[2] == "  the query at position 0 sees nothing: out is 0 and lse -inf"
    assert lines(case, "key.grad", (0, 1, 1, 0))[2] == "  the key at position 1 is seen by no query"


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_no_number_has_no_distance(value):
    assert lines(CASE, "out", (0, 0, 0, 0), value=value)[1].endswith(f"got {value:.9g}")


def test_a_long_list_is_cut():
    case = case_of(length=30, segment_lengths=(30,), dilation_rates=(1,))
    assert lines(case, "out", (0, 0, 0, 0))[2].endswith("7 (rank 0) and 22 more")


def test_who_sees_whom_is_reported_in_the_dialect_of_the_target():
    """Head 1 of two has the offset 1 in the paper; in torchscale's code the offset of half the heads is h // 1."""
    case = case_of(length=4, heads=4, kv_heads=4, segment_lengths=(4,), dilation_rates=(2,))
    assert "sees nothing" in lines(case, "out", (0, 0, 1, 0))[2]
    assert lines(case, "out", (0, 0, 1, 0), dialect="torchscale")[2].endswith("sees keys 0 (rank 0), 2 (rank 0)")
