"""The optional terms as drawn: each value of their axes occurs, also at its borders, and is told from the others."""

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from attention_gate import Target
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.options import covering_rows, space
from attention_gate.verify.case.other_terms import CHANGING, with_other_term
from attention_gate.verify.case.strategies import cases
from attention_gate.verify.case.term_axes import TERM_AXES, values_of_terms
from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.call_sequences import changed
from attention_gate.verify.judge.oracle import answer
from attention_gate.verify.target.choices import TERMS
from tests.verify.case.test_strategies import drawn as of_check

CASE = Case(world_size=3, length=9, segment_lengths=(9,))


def attend(query, key, value, **options):
    """Only declared, never called."""


def drawn(count=1500):
    """Cases of a target that takes all terms."""
    axes = space(Target(attend=attend, terms=tuple(TERMS)), (1, 2, 3, 4), rows=("small",))
    found = []

    @settings(
        max_examples=count, derandomize=True, database=None, phases=[Phase.generate], suppress_health_check=HealthCheck
    )
    @given(cases(axes, covering_rows(axes, 4), (1, 2, 3, 4)))
    def note(case):
        found.append(case)

    note()
    return found


@pytest.fixture(scope="module")
def some():
    return drawn()


@pytest.mark.parametrize("axis", TERM_AXES)
def test_every_value_is_drawn_often(some, axis):
    counts = [sum(values_of_terms(case)[axis] == value for case in some) for value in TERM_AXES[axis]]
    assert min(counts) >= len(some) / 40, dict(zip(TERM_AXES[axis], counts, strict=True))


def test_documents_end_at_one_before_and_one_after_shards_and_lie_inside_one(some):
    seen = {-1: 0, 0: 0, 1: 0, "inside": 0, "empty": 0}
    for case in some:
        if not case.document_lengths or case.length < 3 * case.shards:
            continue
        ends = list(itertools.accumulate(case.document_lengths))
        size, larger = divmod(case.length, case.shards)
        at = list(itertools.accumulate([size + (rank < larger) for rank in range(case.shards)]))[:-1]
        for step in (-1, 0, 1):
            seen[step] += any(boundary + step in ends for boundary in at)
        seen["empty"] += 0 in case.document_lengths
        starts = [0, *ends[:-1]]
        seen["inside"] += any(
            first < start and end < last
            for start, end in zip(starts, ends, strict=True)
            for first, last in itertools.pairwise([0, *at, case.length])
            if end > start
        )
    assert min(seen.values()) > 30, seen


@pytest.mark.parametrize(
    ("lengths", "value"),
    [
        ((3, 6), "across shards"),
        ((3, 3, 3), "on shards"),
        ((1, 2, 3, 0, 3), "on shards"),
        ((2, 5, 2), "over three shards"),
        ((9,), "over three shards"),
        ((2, 4), "rows left over"),
        ((1,) * 9, "on shards"),
        ((1, 1, 0, *(1,) * 7), "single rows"),
    ],
)
def test_documents_are_told_apart(lengths, value):
    assert values_of_terms(CASE.replace(document_lengths=lengths))["documents"] == value


@pytest.mark.parametrize("term", CHANGING)
def test_another_value_of_a_term_is_another(term):
    given = with_other_term(CASE, term)
    assert given.terms == (term.removesuffix(" function"),)
    assert with_other_term(given, term) != given


def test_other_documents_and_masks_are_left_where_queries_are_others():
    case = CASE.replace(query_length=3)
    assert with_other_term(case, "documents") == with_other_term(case, "mask function") == case
    assert with_other_term(case, "window") != case


def test_whatever_differs_between_calls_leaves_a_case_that_has_an_answer():
    check, target = BY_NAME["state"], Target(attend=attend, terms=tuple(TERMS))
    for case in of_check(check, 60, target):
        for what in ("mask", "segment length", "dilation rate", "length", *CHANGING):
            assert np.isfinite(answer(changed(case, what)).expected["out"]).all()
