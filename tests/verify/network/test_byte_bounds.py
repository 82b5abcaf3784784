"""Bytes of calls with other lengths: joint rows do not travel, replicated queries exchange their parts."""

import numpy as np

from attention_gate import Case
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.network.byte_bounds import least, most, needed_rows

#: Keys 0 to 2 on rank 0, 3 and 4 on rank 1; one query on rank 0, none on rank 1.
CASE = Case(world_size=2, length=5, pass_length=True, segment_lengths=(5,), query_length=1, head_dim=3, value_dim=4)
KEYS = (np.arange(3), np.arange(3, 5))
ONE_QUERY = Positions(KEYS, (np.arange(1), np.arange(0)))


def test_a_rank_without_queries_needs_no_row():
    assert needed_rows(CASE, "longnet", ONE_QUERY).tolist() == [[3, 2], [0, 0]]
    first, second = least(CASE, "longnet", ONE_QUERY, "forward")
    row = 8 * (3 + 4)
    assert (first.received, first.sent, second.received, second.sent) == (2 * row, 0, 0, 2 * row)


def test_rows_that_every_rank_has_do_not_travel():
    joint = CASE.replace(joint=("front", 2), segment_lengths=(7,))
    assert needed_rows(joint, "longnet", ONE_QUERY).tolist() == [[3, 2], [0, 0]]
    near = joint.replace(window=(1, 0))  # the query, at position 6, sees the last two rows of the sequence
    assert needed_rows(near, "longnet", ONE_QUERY).tolist() == [[0, 2], [0, 0]]
    rear = joint.replace(joint=("rear", 2), is_causal=True)
    assert needed_rows(rear, "longnet", ONE_QUERY).tolist() == [[3, 2], [0, 0]]


def test_a_total_on_every_rank_takes_what_all_others_have():
    joint = CASE.replace(joint=("front", 2), segment_lengths=(7,))
    parts = least(joint, "longnet", ONE_QUERY, "backward")
    totals = least(joint, "longnet", ONE_QUERY, "backward", ("joint_key.grad", "joint_value.grad"))
    assert [one.received - other.received for one, other in zip(totals, parts, strict=True)] == [8 * 2 * (3 + 4)] * 2
    assert most(joint, ONE_QUERY, "backward", ("joint_key.grad",)) - most(joint, ONE_QUERY, "backward") == 8 * 2 * 3


def test_replicated_queries_may_exchange_outputs_and_lses():
    case = CASE.replace(query_length=40, heads=2, kv_heads=1)
    everywhere = Positions(KEYS, (np.arange(40),) * 2, replicated=True)
    assert most(case, everywhere, "forward") == 40 * 2 * (4 + 1) * 8
