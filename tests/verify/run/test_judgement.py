"""The report: its JSON keeps the published schema, its verdict is never kinder than its checks, its counts close."""

import itertools
import json

import pytest

import attention_gate
from attention_gate.verify.checks.results import OUTCOMES
from attention_gate.verify.run.judgement import verdict_of
from tests.verify.reports import check_of, report_of


def test_the_json_has_the_published_schema():
    report = report_of(check_of("forward"), check_of("gradients", "fail"), check_of("state", "blocked"))
    data = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert data["schema"] == 1
    assert (data["target"], data["verdict"], data["seconds"]) == ("my.module:attend", "fail", 12.5)
    assert data["unsupported"] == []
    assert data["environment"] == {"python": "3.11.7"}
    for check in data["checks"]:
        assert {"name", "verdict", "examples", "seconds", "worst", "failure"} <= set(check)
    passed, failed, blocked = data["checks"]
    assert (passed["verdict"], passed["worst"], passed["failure"]) == ("pass", 0.4, None)
    assert failed["failure"]["message"].startswith("the output is wrong")
    assert eval(failed["failure"]["example"], {"Case": attention_gate.Case}) == report.checks[1].failure.example.case
    assert failed["failure"]["replay"] == "failures/attend-forward.json"
    assert failed["worst"] is None  # JSON has no infinity
    assert blocked["reason"] == "it is blocked"


@pytest.mark.parametrize("verdict", ["pass", "fail", "incomplete", "error"])
def test_every_verdict_has_its_exit_status(verdict):
    status = report_of(check_of(), verdict=verdict).exit_status
    assert status == {"pass": 0, "fail": 1, "incomplete": 3, "error": 3}[verdict]


def test_the_verdict_is_never_kinder_than_the_checks():
    for outcomes in itertools.combinations_with_replacement(OUTCOMES, 3):
        _is_not_kinder(outcomes)


def _is_not_kinder(outcomes):
    verdict = verdict_of(tuple(check_of(outcome=outcome) for outcome in outcomes))
    if {"fail", "crash", "hang", "stale"} & set(outcomes):
        assert verdict == "fail"
    elif {"not run", "blocked"} & set(outcomes) or not {"pass", "known"} & set(outcomes):
        assert verdict == "incomplete"
    if verdict == "pass":
        assert set(outcomes) <= {"pass", "unsupported", "known"}


def test_no_check_at_all_is_no_pass():
    assert verdict_of(()) == "incomplete"
    assert verdict_of((check_of(outcome="unsupported"),)) == "incomplete"


def test_the_counts_are_closed():
    report = report_of(*(check_of(f"check-{outcome}", outcome) for outcome in OUTCOMES))
    assert len(report.checks) == len(OUTCOMES)
    assert report.ran == 5  # passed, failed, crashed, hung, failed as is known
    assert report.examples == sum(check.examples for check in report.checks)
    text = attention_gate.text(report)
    assert f"ran 5 of {len(OUTCOMES)} checks, {report.examples:,} examples, world sizes 1, 2, 3, 4" in text
    for check in report.checks:
        assert check.name in text


def test_the_text_says_what_a_person_needs():
    text = attention_gate.text(
        report_of(check_of("forward", "fail"), check_of("lse", "unsupported", reason="not offered"))
    )
    assert "\n\nFAIL  forward: the output is wrong\n  expected: the target returns the oracle's output\n" in text
    assert "minimal case: Case(world_size=1, length=7" in text
    assert "replay: python -m attention_gate replay failures/attend-forward.json" in text
    assert "not offered" in text
    assert "my.module:attend: DOES NOT CONFORM\n" in text
