"""Targets that are wrong in some ways of calling only: rejected, with the way of calling named."""

import pytest

import attention_gate
from attention_gate.verify.case.options import space
from attention_gate.verify.target.choices import CALLERS
from tests.verify.field import caller_targets


@pytest.mark.parametrize("name", caller_targets.WORDS)
def test_a_mistake_in_one_way_of_calling_is_found_and_the_way_named(name):
    report = attention_gate.check(f"tests.verify.field.caller_targets:{name}", profile="quick", checks=["callers"])
    (check,) = report.checks
    assert check.outcome in ("fail", "crash"), attention_gate.text(report)
    headline = check.failure.finding.headline
    assert headline.startswith(caller_targets.WORDS[name]), headline
    assert headline.endswith("; called as is, it is right")


def test_what_is_right_passes_however_it_is_called():
    report = attention_gate.check("tests.verify.targets:right", profile="quick", checks=["callers"])
    assert report.verdict == "pass", attention_gate.text(report)


def test_a_way_of_calling_that_is_not_taken_is_not_tried_and_has_its_reason():
    target = attention_gate.Target(
        attend=caller_targets.saves_more_the_first_time,
        callers=tuple(caller for caller in CALLERS if not caller.startswith("checkpoint")),
        because={"callers": "its plan is made once"},
    )
    words = "calls inside activation checkpointing, inside reentrant activation checkpointing (its plan is made once)"
    assert words in target.unsupported()
    assert not any(caller.startswith("checkpoint") for caller in space(target, (1, 2))["caller"])


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"callers": ("no-grad",)}, "'plain' must be among them"),
        ({"callers": ("plain", "nograd")}, "did you mean 'no-grad'?"),
        ({"mixed_dtypes": 1}, "it must be True, False or NOT_YET"),
    ],
)
def test_a_wrong_declaration_is_refused_in_words(fields, words):
    with pytest.raises(ValueError, match="Target") as refused:
        attention_gate.Target(attend=caller_targets.saves_more_the_first_time, **fields)
    assert words in str(refused.value)


def test_calls_that_have_no_gradients_or_no_dtype_for_autocast_are_not_drawn():
    attend = caller_targets.saves_more_the_first_time
    without = space(attention_gate.Target(attend=attend, gradients=False), (1,))["caller"]
    assert {"checkpoint", "twice", "saved-elsewhere", "non-leaf"} & set(without) == set()
    assert "autocast" not in space(attention_gate.Target(attend=attend, dtypes=("float64",)), (1,))["caller"]
    mixed = space(attention_gate.Target(attend=attend, mixed_dtypes=True), (1,))["caller"]
    assert mixed[-1] == "autocast-mixed"
