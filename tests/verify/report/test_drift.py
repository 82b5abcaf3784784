"""An unchanged, a regressed and a dearer target are told apart beside an earlier report; the exit status follows."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import pytest

from attention_gate.verify.commands.outputs import add_outputs, check_outputs, tell
from attention_gate.verify.judge.measurements import BytesMoved, Cell, Measured, TensorBudget
from attention_gate.verify.report.drift import Drift, drift, read_report
from attention_gate.verify.report.markdown import markdown
from attention_gate.verify.run.judgement import Report
from tests.verify.reports import check_of, failure_of, report_of


def measured(share: float = 0.2, moved: int = 1000) -> Measured:
    """Figures of one check."""
    return Measured(
        (Cell(2, "float64", 40, share),),
        (TensorBudget("out", 1, "float64", 0.1), TensorBudget("out", 2, "float64", share)),
        (BytesMoved(2, "forward", moved, 2000.0, 1000.0),),
    )


def report(share: float = 0.2, moved: int = 1000, **changes: object) -> Report:
    """A forward check that passes, a gradients check that fails."""
    checks = check_of("forward", measured=measured(share, moved)), check_of("gradients", "fail")
    return report_of(*checks, **changes)


def changes_of(then: Report, now: Report) -> Drift:
    return drift(then.document(), now.document())


def test_an_unchanged_target_is_unchanged_though_it_fails() -> None:
    found = changes_of(report(), report())
    assert found == Drift()
    assert found.verdict == "UNCHANGED"


def test_a_regression_names_the_check_and_what_is_wrong_with_it() -> None:
    now = replace(
        report(), checks=(check_of("forward", "fail", failure=failure_of("out is wrong")), report().checks[1])
    )
    found = changes_of(report(), now)
    assert found.regressions == ("forward passed then; now fail: out is wrong",)
    assert found.verdict == "WORSE"
    back = changes_of(now, report())
    assert back.passes == ("forward; then fail: out is wrong",)
    assert back.verdict == "BETTER"


@pytest.mark.parametrize("outcome", ["blocked", "not run", "unsupported", "known"])
def test_a_check_that_passed_and_is_not_passed_any_more_regressed(outcome: str) -> None:
    now = replace(report(), checks=(check_of("forward", outcome), report().checks[1]))
    assert len(changes_of(report(), now).regressions) == 1


def test_a_larger_share_of_a_budget_is_named_with_its_tensor_and_place() -> None:
    found = changes_of(report(0.2), report(0.31))
    assert found.budgets == ("forward: out in float64 on 2 ranks: 20.0% then, 31.0% now",)
    assert not found.regressions
    assert found.verdict == "WORSE"
    assert changes_of(report(0.31), report(0.2)) == Drift()


@pytest.mark.parametrize(("then", "now"), [(0.2, 0.24), (0.01, 0.025)])
def test_a_little_more_is_no_drift(then: float, now: float) -> None:
    assert changes_of(report(then), report(now)) == Drift()


def test_more_bytes_are_named() -> None:
    found = changes_of(report(), report(moved=1500))
    assert found.traffic == ("forward: forward pass on 2 ranks: 1.00 times the least then, 1.50 times now",)
    assert changes_of(report(), report(moved=1010)) == Drift()


@pytest.mark.parametrize("changes", [{"seed": 1}, {"profile": "standard"}, {"environment": {"hypothesis": "6.1"}}])
def test_budgets_of_other_examples_are_not_compared(changes: dict[str, object]) -> None:
    found = changes_of(report(0.2), report(0.9, moved=9000, **changes))
    assert (found.budgets, found.traffic) == ((), ())
    assert found.notes[0].startswith("other examples were judged, so budgets and bytes are not compared")


def told(then: Report, now: Report, folder: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    """The exit status, what is printed, and the Markdown, of a run with --compare-with."""
    (folder / "old.json").write_text(json.dumps(then.to_json()))
    parser = argparse.ArgumentParser()
    add_outputs(parser)
    options = parser.parse_args(["--compare-with", f"{folder}/old.json", "--markdown", f"{folder}/new.md"])
    check_outputs(options)
    status = tell(now, options)
    return status, capsys.readouterr().out, (folder / "new.md").read_text()


@pytest.mark.parametrize(
    ("now", "status", "words"),
    [
        (report(), 0, "beside the earlier report: UNCHANGED"),
        (report(0.9), 1, "more of the error budget: forward: out in float64 on 2 ranks: 20.0% then, 90.0% now"),
        (report_of(check_of("forward", "hang")), 1, "regression: forward passed then; now hang"),
        (report_of(check_of("forward", measured=measured()), check_of("gradients")), 0, "passes now: gradients; then"),
        (replace(report(), verdict="incomplete", checks=(check_of("forward", measured=measured()),)), 3, "UNCHANGED"),
    ],
)
def test_the_exit_status_follows_what_has_changed(
    now: Report, status: int, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, printed, summary = told(report(), now, tmp_path, capsys)
    assert found == status
    assert words in printed
    assert words.removeprefix("beside the earlier report: ") in summary


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read: "), ("{}", "is no report of gate --json"), ("x", "is no report")]
)
def test_a_file_that_is_no_report_is_refused_before_the_work(content: str | None, words: str, tmp_path: Path) -> None:
    file = tmp_path / "old.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(ValueError, match=words):
        read_report(str(file))


def test_the_summary_of_a_job_has_a_table_and_each_failure_folded_away() -> None:
    text = markdown(report_of(check_of("forward", remark="a | b < c"), check_of("lse", "fail"), unsupported=("x",)))
    assert "## `my.module:attend`: DOES NOT CONFORM" in text
    assert "| ok | forward | 40 | 40% of the error budget used; a \\| b &lt; c |" in text
    assert "| **FAIL** | lse | 40 | the output is wrong |" in text
    assert "<details><summary>FAIL  lse: the output is wrong</summary>" in text
    assert "does not support it: x." in text
