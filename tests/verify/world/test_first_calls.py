"""A first call that computes for long and is right is no hang; an endless one says which limit ended it."""

from __future__ import annotations

import time

import pytest

import attention_gate

HERE = "tests.verify.world.test_first_calls"

_calls = {"made": 0}


def slow_at_first(query, key, value, **options):
    """Works for two seconds in the first call of each process, as a compilation does."""
    from attention_gate.impls import collective

    _calls["made"] += 1
    until = time.process_time() + 2.0
    while _calls["made"] == 1 and time.process_time() < until:
        pass
    return collective.attend(query, key, value, **options)


def endless(query, key, value, **options):
    """Works for ever."""
    while True:
        pass


def judged(name, **options):
    return attention_gate.check(
        f"{HERE}:{name}", profile="quick", world_sizes=[1], checks=["forward"], patience=1.0, **options
    )


def test_a_first_call_may_take_longer_than_the_others():
    report = judged("slow_at_first")
    assert report.verdict == "pass", attention_gate.text(report)


def test_the_report_says_which_limit_ended_a_call():
    (check,) = judged("endless").checks
    assert check.outcome == "hang"
    assert check.failure is not None
    assert "at work for " in check.failure.finding.headline
    assert "the limit of the first call)" in check.failure.finding.headline
    assert check.failure.finding.details[-1] == "should it need longer: --patience SECONDS stretches all limits"


@pytest.mark.parametrize("seconds", [0, -1.0, float("inf")])
def test_patience_is_a_positive_number(seconds):
    with pytest.raises(ValueError, match=r"patience is .*; it must be a positive number of seconds"):
        attention_gate.check(f"{HERE}:endless", patience=seconds)
