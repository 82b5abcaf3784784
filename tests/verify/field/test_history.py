"""The calls before a failure: found, made few and small, saved, and made again by replay in fresh processes."""

import json
from pathlib import Path

import pytest

import attention_gate
from attention_gate.verify.commands.command_line import main


@pytest.mark.parametrize(
    ("name", "checks", "calls"),
    [("first_group", ["sub-groups"], 1), ("two_causal", ["forward"], 2)],
)
def test_a_failure_that_needs_earlier_calls_fails_again_from_its_file(tmp_path, capsys, name, checks, calls):
    target = f"tests.verify.field.history_targets:{name}"
    report = attention_gate.check(target, profile="quick", checks=checks, save=str(tmp_path))
    (check,) = report.checks
    assert check.outcome == "fail"
    failure = check.failure
    assert len(failure.history) == calls, attention_gate.text(report)
    assert f"it fails after {calls} call" in failure.steadiness
    assert f"called before: {checks[0]} on Case(" in attention_gate.text(report)
    assert len(json.loads(Path(failure.replay).read_text())["history"]) == calls
    for _ in range(5):
        assert main(["replay", failure.replay]) == 1
        printed = capsys.readouterr().out
        assert printed.count("called before: ") == calls
        assert "fail: the output is wrong" in printed
