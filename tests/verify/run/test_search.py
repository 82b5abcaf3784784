"""The search in real worlds: what a known mistake shrinks to, and that a seed repeats itself."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import strategies as st

from attention_gate import Case
from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.judge.session import Session
from attention_gate.verify.rank.jobs import Job
from attention_gate.verify.run.search import NoExamples, _Attempts, search
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.source import TargetError
from tests.verify import targets


def session_of(worlds, target, sizes=(1, 2)):
    """A session for a target of these tests, in worlds that are kept."""
    found, source = as_target(getattr(targets, target))
    return Session(found, source, worlds, sizes)


def searched(worlds, target, check, *, sizes=(1, 2), examples=60, seed=0):
    """What a search comes to."""
    return search(BY_NAME[check], session_of(worlds, target, sizes), examples=examples, seed=seed)


def test_what_is_right_passes_with_so_many_examples(worlds):
    found = searched(worlds, "right", "gradients", examples=20)
    assert found.finding is None
    assert found.example is None
    assert found.examples == 20
    assert 0 < found.budget_used <= 1


def test_cases_of_another_kind_are_tried_however_few_examples_there_are(worlds):
    """Chance alone would take one in a million."""
    check = replace(
        BY_NAME["forward"],
        extra_cases=lambda target, world_sizes: st.integers(0, 1).map(
            lambda more: Case(length=40 + more, segment_lengths=(4,), dilation_rates=(1,))
        ),
        extra_in=1_000_000,
    )
    lengths = []
    check = replace(
        check,
        examine=lambda session, case, parameters: (
            lengths.append(case.length) or BY_NAME["forward"].examine(session, case, parameters)
        ),
    )
    search(check, session_of(worlds, "right"), examples=4, seed=0)
    assert lengths.count(40) == 1
    assert len(lengths) == 4


def with_once(judged, **changes):
    """The check forward on some examples once each: their ranks and parameters end up, in order, in ``judged``."""
    asked = [({"ranks": (2,)}, {"number": 1}), *[({}, {"number": 2})] * 8, ({"ranks": (1,)}, {"number": 3})]
    changes = {"once": lambda session, axes: asked, "parameters": lambda session: st.just({"number": 0}), **changes}

    def examine(session, case, parameters):
        judged.append((case.shards, parameters["number"]))
        return BY_NAME["forward"].examine(session, case, {})

    return replace(BY_NAME["forward"], examine=examine, **changes)


def test_what_is_asked_once_comes_after_the_simplest_and_before_chance(worlds):
    judged = []
    found = search(with_once(judged), session_of(worlds, "right"), examples=14, seed=0)
    assert found.examples == 14
    assert [number for _, number in judged] == [0, 1, *[2] * 8, 3, 0, 0, 0]
    ranks = {number: {shards for shards, other in judged if other == number} for number in (1, 2, 3)}
    assert ranks == {1: {2}, 2: {1, 2}, 3: {1}}


def test_what_is_asked_once_ends_with_the_examples_and_at_a_failure(worlds):
    judged = []
    search(with_once(judged), session_of(worlds, "right"), examples=3, seed=0)
    assert [number for _, number in judged] == [0, 1, 2]
    judged.clear()
    check = with_once(judged)
    found = search(check, session_of(worlds, "raises_on_the_last_rank"), examples=9, seed=0, shrink_seconds=0.0)
    assert found.finding is not None
    assert [number for _, number in judged] == [0, 1]  # that target is right on one rank
    assert found.example.parameters == {"number": 1}


def test_a_check_has_no_fewer_examples_than_the_least(worlds):
    judged = []
    check = with_once(judged, least=6)
    assert search(check, session_of(worlds, "right"), examples=2, seed=0).examples == len(judged) == 6
    assert replace(check, weight=0.1).examples("quick") == 6
    assert check.examples("standard") == BY_NAME["forward"].examples("standard") > 6


def test_an_ignored_mask_shrinks_to_two_rows_of_one_rank(worlds):
    found = searched(worlds, "causal_ignored", "forward")
    assert found.finding.tensor == "out"
    case = found.example.case
    assert case.is_causal
    assert case.replace(seed=0) == Case(length=2, segment_lengths=(2,), dilation_rates=(1,), is_causal=True).replace(
        requires_grad="", pass_length=case.pass_length, head_dim=case.head_dim, value_dim=case.value_dim
    )


def test_a_mistake_in_a_corner_shrinks_to_that_corner(worlds):
    """The last of two heads, from the third row of the second rank on."""
    found = searched(worlds, "last_head_wrong", "forward", examples=120)
    case = found.example.case
    assert (case.world_size, case.heads, case.kv_heads, case.batch) == (2, 2, 2, 1)
    assert 6 <= case.length <= 7
    assert (case.head_dim, case.value_dim, case.is_causal, case.data) == (1, 1, False, "normal")
    assert "rank 1 (rank 0 is right)" in found.finding.headline
    assert "head 1, dim 0], row 2 of rank 1" in found.finding.details[0]


def test_a_gradient_that_never_arrives_shrinks_to_a_single_number(worlds):
    found = searched(worlds, "no_key_gradient", "gradients")
    assert found.finding.headline == "the gradient of key is missing on rank 0 (None)"
    case = found.example.case
    assert (case.world_size, case.length, case.heads, case.head_dim, case.value_dim) == (1, 1, 1, 1, 1)


def test_an_exception_on_one_rank_is_a_crash_with_its_words(worlds):
    found = searched(worlds, "raises_on_the_last_rank", "forward")
    assert found.finding.outcome == "crash"
    assert found.finding.headline.startswith("rank 1 raised RuntimeError: nothing works with ")
    assert any("targets.py" in line for line in found.finding.details)
    assert found.example.case.world_size == 2


def test_the_same_seed_tries_the_same_examples_and_another_seed_others(worlds):
    tried = []
    for seed in (3, 3, 4):
        session = session_of(worlds, "right")
        search(BY_NAME["forward"], session, examples=15, seed=seed)
        tried.append(session.tried)
    assert tried[0] == tried[1]
    assert tried[0] != tried[2]


@pytest.mark.parametrize("seed", [0, 1])
def test_a_failure_that_does_not_repeat_ends_the_search_too(worlds, seed):
    found = searched(worlds, "wrong_at_random_times", "forward", sizes=(2,), seed=seed)
    assert found.finding is not None
    assert found.example is not None


def test_the_next_example_is_drawn_while_the_ranks_work(worlds, monkeypatch):
    session = session_of(worlds, "right")
    drawn, while_working = [], []
    collect = worlds[1].collect.__func__
    draw = _Attempts._draw

    def noted(attempts):
        drawn.append(attempts._drawn is None)
        draw(attempts)

    def collected(world):
        while_working.append(len(drawn))
        return collect(world)

    monkeypatch.setattr(_Attempts, "_draw", noted)
    monkeypatch.setattr(type(worlds[1]), "collect", collected)
    search(BY_NAME["forward"], session, examples=10, seed=0)
    assert all(later > earlier for earlier, later in pairwise(while_working))
    assert not any(drawn[2::2])  # what is asked for next is there already


def test_an_example_that_cannot_be_drawn_ahead_raises_where_it_is_needed(worlds):
    session = session_of(worlds, "right")
    tried = []

    def fit(case):
        tried.append(case)
        if len(tried) >= 3:
            raise RuntimeError("no third case")
        return case

    session.target = replace(session.target, fit=fit)
    with pytest.raises(TargetError, match="no third case"):
        search(BY_NAME["forward"], session, examples=10, seed=0)
    assert worlds[1].run(Job("load", session.source, (), ())).outcome == "returned"


def test_a_check_that_has_no_example_is_no_pass(worlds):
    nothing = replace(BY_NAME["forward"], parameters=lambda session: st.just({}).filter(lambda one: False))
    with pytest.raises(NoExamples, match=r"forward has judged nothing: Hypothesis .* no example in 6 attempts"):
        search(nothing, session_of(worlds, "right"), examples=2, seed=0)
