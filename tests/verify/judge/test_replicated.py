"""Which rows each rank has, and results that every rank returns: each is judged, and the wrong ones are named."""

import types

import numpy as np
import pytest

from attention_gate import Case, Target
from attention_gate.verify.judge.comparison import judge
from attention_gate.verify.judge.oracle import answer
from attention_gate.verify.judge.session import Session
from attention_gate.verify.rank.attended import Attended


def attend(query, key, value, **options):
    """Only declared, never called."""


CASE = Case(world_size=3, length=5, pass_length=True, segment_lengths=(5,), query_length=2, interleave=2)


def positions(case=CASE, **fields):
    session = Session(Target(attend=attend, **fields), types.SimpleNamespace(), None, (1, 2, 3))
    return session.positions(case)


def test_a_layout_by_document_has_the_documents_of_the_queries_for_queries():
    case = Case(world_size=2, length=11, pass_length=True, segment_lengths=(11,), document_lengths=(5, 6))
    fewer = positions(case.replace(query_length=3, query_lengths=(1, 2)), layout="document-zigzag")
    assert sorted(np.concatenate(fewer.queries)) == [0, 1, 2]
    assert len(np.concatenate(fewer.keys)) == 11
    as_many = positions(case.replace(query_length=11, query_lengths=(6, 5)), layout="document-zigzag")
    by_keys = positions(case.replace(document_lengths=(6, 5)), layout="document-zigzag")
    assert [owned.tolist() for owned in as_many.queries] == [owned.tolist() for owned in by_keys.keys]


def test_blocks_are_dealt_out_in_turn():
    found = positions(layout="interleaved")
    assert [owned.tolist() for owned in found.keys] == [[0, 1], [2, 3], [4]]
    assert [owned.tolist() for owned in found.queries] == [[0, 1], [], []]
    whole = positions(CASE.replace(interleave=9), layout="interleaved")
    assert [len(owned) for owned in whole.keys] == [5, 0, 0]


def test_queries_are_split_by_themselves_or_given_to_all():
    assert [owned.tolist() for owned in positions(CASE.replace(interleave=None)).queries] == [[0], [1], []]
    replicated = positions(queries="replicated", gradients=False)
    assert [owned.tolist() for owned in replicated.queries] == [[0, 1]] * 3


def results(case, wrong=()):
    """What the ranks return, some of it wrong."""
    out = answer(case).expected["out"]
    found = []
    for rank in range(case.world_size):
        mine = out + (1.0 if rank in wrong else 0.0)
        found.append(Attended({"out": mine}, {"out": f"tensor {out.shape} float64 cpu"}))
    return found


@pytest.mark.parametrize("wrong", [(), (1,), (0, 2), (0, 1, 2)])
def test_each_rank_that_returns_all_rows_is_judged(wrong):
    where = positions(queries="replicated", gradients=False)
    case = CASE.replace(requires_grad="")
    finding = judge(case, results(case, wrong), where, answer(case), names=("out",)).finding
    if not wrong:
        assert finding is None
        return
    right = {2: "2 are right", 1: "1 is right", 0: "none is right"}[3 - len(wrong)]
    assert finding.headline == (
        f"the output is wrong in 2 of 2 elements, on rank {wrong[0]}; of 3 ranks that return the same rows {right}"
    )
    assert f"row 0 of rank {wrong[0]}" in finding.details[0]


@pytest.mark.parametrize(
    ("totals", "parts", "words"),
    [
        ((), (1.0, 1.0, 1.0), "each rank returns the whole of it, which is then summed twice"),
        ((), (0.0, 1.0, 0.0), ""),
        (("joint_value.grad",), (0.0, 1.0, 0.0), "the ranks' parts add up to it"),
        (("joint_value.grad",), (1.0, 1.0, 1.0), ""),
    ],
)
def test_gradients_of_joint_rows_are_parts_or_totals_as_declared(totals, parts, words):
    case = Case(world_size=3, length=3, segment_lengths=(5,), joint=("front", 2))
    right = answer(case)
    whole = right.expected["joint_value.grad"]
    attended = [
        Attended({"joint_value.grad": part * whole}, {"joint_value.grad": f"tensor {whole.shape} float64 cpu"})
        for part in parts
    ]
    where = positions(case)
    finding = judge(case, attended, where, right, names=("joint_value.grad",), totals=totals).finding
    assert (finding is None) == (not words)
    if finding is not None:
        assert "the gradient of joint_value is wrong in 2 of 2 elements" in finding.headline
        assert any(words in line for line in finding.details)
    assert np.isfinite(whole).all()
