"""Lengths that are drawn: every number of queries that matters, of documents too; blocks of the interleaved layout."""

import collections

import pytest

from attention_gate import Target
from attention_gate.verify.case.coverage import options_of
from attention_gate.verify.case.options import feasible
from attention_gate.verify.case.term_axes import INTERLEAVES, TERM_AXES, UNEVEN_QUERIES
from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.target.choices import TERMS
from tests.verify.case.test_strategies import drawn


def attend(query, key, value, **options):
    """Only declared, never called."""


EVERYTHING = Target(attend=attend, terms=tuple(TERMS))
DECODING = Target(
    attend=attend, layout="interleaved", queries="replicated", gradients=False, branches="dense", terms=("queries",)
)


@pytest.mark.parametrize("name", ["forward", "combinations", "schedules", "traffic"])
def test_every_case_has_options_that_are_asked_for_and_can_occur(name):
    check, target = BY_NAME[name], EVERYTHING
    axes = check.space(target, (1, 2, 3, 4))
    for case in drawn(check, 200, target):
        options = options_of(case)
        if case.world_size <= 4:
            assert feasible(options, 4), case
        for axis in ("queries", "joint", "documents", "shards", "window"):
            assert options[axis] in axes[axis], (axis, case)


def test_every_number_of_queries_occurs_in_every_world_and_of_documents_too():
    found = collections.defaultdict(set)
    of_documents = set()
    for case in drawn(BY_NAME["forward"], 500, EVERYTHING):
        found[options_of(case)["queries"]].add(case.shards)
        pairs = zip(case.query_lengths or (), case.document_lengths or (), strict=False)
        of_documents |= {(q > k) - (q < k) if q and k else (bool(q), bool(k)) for q, k in pairs}
    assert set(found) == set(TERM_AXES["queries"])
    assert all(worlds == {1, 2, 3, 4} for worlds in found.values())
    assert of_documents == {1, 0, -1, (False, True), (True, False), (False, False)}


def test_there_are_ranks_without_queries_and_ranks_without_keys():
    cases = drawn(BY_NAME["forward"], 300, EVERYTHING)
    assert any(0 < case.queries < case.shards <= case.length for case in cases)
    assert any(0 < case.length < case.shards <= case.queries for case in cases)
    assert any(case.length == 0 < case.joint_rows for case in cases)


def test_shards_that_must_be_even_have_as_many_queries_each():
    even = Target(attend=attend, terms=("queries",), uneven=False)
    for case in drawn(BY_NAME["forward"], 200, even):
        assert case.queries % case.shards == 0
        assert options_of(case)["queries"] not in UNEVEN_QUERIES or case.shards == 1


def test_blocks_are_drawn_for_the_interleaved_layout_alone():
    assert {case.interleave for case in drawn(BY_NAME["forward"], 100, EVERYTHING)} == {None}
    cases = drawn(BY_NAME["forward"], 200, DECODING)
    assert {options_of(case)["interleave"] for case in cases} == set(INTERLEAVES)
