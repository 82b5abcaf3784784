"""What a target may say of itself: reasons, not yet, cases that fit, known failures that do not outlive their cause."""

import datetime
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from attention_gate import NOT_YET, Case, KnownFailure, Target, TargetError
from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.results import CheckResult, Example, Failure
from attention_gate.verify.commands.command_line import main
from attention_gate.verify.commands.judge_target import check
from attention_gate.verify.judge.session import Session
from attention_gate.verify.run.judgement import verdict_of
from attention_gate.verify.run.known_failures import with_known_failures
from attention_gate.verify.target.source import Source
from attention_gate.verify.world.finding import Finding
from attention_gate.verify.world.local import Worlds

_FIT_RAISES = """\
import attention_gate
from attention_gate.impls.collective import attend

made = []

def fit(case):
    made.append(case)
    if len(made) > {calls}:
        raise TypeError("no such heads")
    return case

target = attention_gate.Target(attend=attend, fit=fit)
"""


def attend(query: Any, key: Any, value: Any, **_: Any) -> Any:
    return value


def entry(**changes: str) -> KnownFailure:
    fields = {"check": "forward", "reason": "it rounds", "link": "https://example.org/1", "until": "2999-12-31"}
    return KnownFailure(**fields | changes)


def result(outcome: str, name: str = "forward") -> CheckResult:
    failure = Failure(Finding(outcome, "the output is wrong"), Example(name, Case()), (2, 2))
    return CheckResult(name, "is right", outcome, 3, 1.0, failure=failure if outcome in ("fail", "crash") else None)


def test_what_is_not_supported_is_reported_with_its_reason() -> None:
    because = {"uneven": "it does not pad", "gradients": "forward only"}
    reported = Target(attend=attend, uneven=False, gradients=NOT_YET, least_ranks=2, because=because).unsupported()
    assert "uneven shards (it does not pad)" in reported
    assert "gradients (not yet: forward only)" in reported
    assert "fewer than 2 ranks" in reported


def test_not_yet_is_no() -> None:
    assert not NOT_YET
    target = Target(attend=attend, gradients=NOT_YET)
    assert BY_NAME["gradients"].missing(target, (1, 2))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"because": {"uneven": "it does not pad"}}, "declares no limit"),
        ({"uneven": "no"}, "must be True, False or NOT_YET"),
        ({"least_ranks": 0}, "positive integer"),
        ({"known_failures": (entry(), entry())}, "two entries"),
    ],
)
def test_a_target_that_contradicts_itself_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Target(attend=attend, **fields)


@pytest.mark.parametrize("changes", [{"reason": " "}, {"link": "the tracker"}, {"until": "soon"}])
def test_an_entry_without_reason_link_or_day_is_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ValueError, match=f"KnownFailure.{next(iter(changes))}"):
        entry(**changes)


@pytest.mark.parametrize(
    ("outcome", "counts_as", "verdict"),
    [
        ("fail", "known", "incomplete"),
        ("crash", "known", "incomplete"),
        ("pass", "stale", "fail"),
        ("unsupported", "stale", "fail"),
        ("blocked", "blocked", "incomplete"),
    ],
)
def test_a_known_failure_is_accepted_and_anything_else_is_not(outcome: str, counts_as: str, verdict: str) -> None:
    counted = with_known_failures(result(outcome), Target(attend=attend, known_failures=(entry(),)))
    assert counted.outcome == counts_as
    assert verdict_of((counted,)) == verdict


def test_known_failures_beside_checks_that_pass_are_a_pass() -> None:
    target = Target(attend=attend, known_failures=(entry(check="precision"),))
    counted = [with_known_failures(r, target) for r in (result("pass"), result("fail", "precision"))]
    assert verdict_of(tuple(counted)) == "pass"
    assert "it rounds (https://example.org/1, accepted until 2999-12-31)" in counted[1].reason


def test_an_entry_is_accepted_to_the_end_of_its_day() -> None:
    day = datetime.date(2030, 1, 31)
    assert not entry(until="2030-01-31").expired(day)
    assert entry(until="2030-01-31").expired(day + datetime.timedelta(days=1))
    counted = with_known_failures(result("fail"), Target(attend=attend, known_failures=(entry(until="2001-01-01"),)))
    assert counted.outcome == "fail"
    assert counted.failure is not None
    assert "its entry in known_failures expired" in counted.failure.finding.details[0]


def session(target: Target) -> Session:
    return Session(target, Source(__name__, None, "attend"), Worlds(), (1, 2, 3))


def test_worlds_that_are_too_small_are_left_out() -> None:
    assert session(Target(attend=attend, least_ranks=2)).world_sizes == (2, 3)
    with pytest.raises(TargetError, match="needs at least 4 ranks"):
        session(Target(attend=attend, least_ranks=4))


def test_a_layout_gives_each_position_to_one_rank() -> None:
    def everything(rank: int, world_size: int, length: int) -> np.ndarray:
        return np.arange(length)

    with pytest.raises(TargetError, match="each position must have exactly one owner"):
        session(Target(attend=attend, layout=everything)).positions(Case(world_size=2, length=2))


def test_cases_are_fitted_once_and_for_all() -> None:
    judged = session(Target(attend=attend, fit=lambda case: case.replace(heads=2, kv_heads=2)))
    assert judged.fitted(Case()) == Case(heads=2, kv_heads=2) == judged.fitted(Case(heads=2, kv_heads=2))
    assert session(Target(attend=attend)).fitted(Case()) == Case()


def test_functions_of_a_target_that_fail_are_reported_as_the_target_s() -> None:
    def raises(*arguments: Any) -> Any:
        raise TypeError("no such heads")

    where = f"target {__name__}:attend: its"
    for broken, words in (
        (Target(attend=attend, fit=raises), "fit raised TypeError: no such heads for Case(world_size=1"),
        (Target(attend=attend, fit=lambda case: None), "fit returned None, which is not a Case, for Case(world_size=1"),
        (Target(attend=attend, layout=raises), "layout raised TypeError: no such heads for Case(world_size=1"),
    ):
        judged = session(broken)
        with pytest.raises(TargetError) as refused:
            judged.positions(judged.fitted(Case()))
        assert str(refused.value).startswith(f"{where} {words}")


def test_a_check_that_changes_a_case_tells_it_too() -> None:
    def raises(case: Case) -> Case:
        raise TypeError("no such heads")

    with pytest.raises(TargetError, match="its fit raised TypeError"):
        BY_NAME["state"].examine(session(Target(attend=attend, fit=raises)), Case(), {"change": "seed", "order": []})


@pytest.mark.parametrize("calls", [0, 3])
def test_a_fit_that_raises_at_some_time_cannot_be_judged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], calls: int
) -> None:
    (tmp_path / "fit_raises.py").write_text(_FIT_RAISES.format(calls=calls))
    few = ("--profile", "quick", "--world-sizes", "1", "--checks", "forward")
    assert main(["gate", f"{tmp_path}/fit_raises.py:target", *few]) == 2
    reported = capsys.readouterr().err.splitlines()
    assert "fit_raises.py:target: its fit raised TypeError: no such heads for Case(" in reported[-1]
    sys.modules.pop("fit_raises", None)


_TAKES_NO_GROUPS = """\
import attention_gate
from attention_gate.impls.collective import attend

def equal_heads_only(query, key, value, **options):
    if query.shape[2] != key.shape[2]:
        raise RuntimeError("as many heads, please")
    return attend(query, key, value, **options)

declared = attention_gate.Target(attend=equal_heads_only, subgroups=False)
"""


@pytest.mark.parametrize(("name", "reported"), [("equal_heads_only", True), ("declared", False)])
def test_a_target_that_raises_and_declares_nothing_is_advised_to_declare_limits(
    tmp_path: Path, name: str, reported: bool
) -> None:
    (tmp_path / "takes_no_groups.py").write_text(_TAKES_NO_GROUPS)
    report = check(f"{tmp_path}/takes_no_groups.py:{name}", profile="quick", world_sizes=(1,), checks=("forward",))
    sys.modules.pop("takes_no_groups", None)
    assert report.checks[0].outcome == "crash"
    assert any("declare what it does not support" in note for note in report.notes) == reported
