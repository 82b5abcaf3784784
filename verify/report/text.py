"""The report as text: a verdict, a line per check, and each failure as a bug report."""

from __future__ import annotations

import shlex

from attention_gate.verify.checks.results import CheckResult, Failure
from attention_gate.verify.report.conclusions import conclusions
from attention_gate.verify.report.drift import Drift
from attention_gate.verify.report.marks import MARKS
from attention_gate.verify.report.program import program
from attention_gate.verify.run.judgement import Report


def text(report: Report, changes: Drift | None = None) -> str:
    """The whole report, without a newline at its end: the checks, the verdict, and last what failed.

    With ``changes`` since an earlier report, these stand before the verdict.
    """
    lines = [_line(check) for check in report.checks if check.outcome != "blocked"]
    lines += [*blocked(report), "", *conclusions(report, changes)]
    for failure in failures(report):
        lines += ["", failure]
    return "\n".join(lines)


def failures(report: Report) -> list[str]:
    """Each failure as a bug report; the first check's, which others may follow from, is the last one."""
    shown: dict[tuple[str, ...], str] = {}
    return [
        failure_text(check, check.failure, shown=shown, dense=report.dense)
        for check in reversed(report.checks)
        if check.failure is not None
    ]


def failure_text(
    check: CheckResult,
    failure: Failure,
    *,
    shown: dict[tuple[str, ...], str] | None = None,
    dense: bool = False,
    called: str | None = None,
) -> str:
    """One failure as a bug report: what was promised, what happened, the minimal case, and how to see it again.

    ``shown`` has the tracebacks that other failures have shown, by check; those of this one are added. ``dense``: the
    target takes the dense branch alone, so that a case's branches need not be shown. ``called`` is how the gate is
    called, by default as this program was.
    """
    failed, times = failure.repeated
    again = failure.steadiness or f"repeated, it failed {failed} of {times} times"
    lines = [
        f"{MARKS[check.outcome]}  {check.name}: {failure.finding.headline}",
        f"  expected: the target {check.promise}",
        *(f"  {line}" for line in _once(failure.finding.details, check.name, {} if shown is None else shown)),
        *(f"  known mistake: {sentence}" for sentence in failure.explanation),
        f"  minimal case: {failure.example.case.text(branches=not dense)}",
    ]
    if failure.example.parameters:
        lines.append(f"                with {', '.join(f'{k}={v!r}' for k, v in failure.example.parameters.items())}")
    for one in failure.history:
        with_these = f" with {', '.join(f'{k}={v!r}' for k, v in one.parameters.items())}" if one.parameters else ""
        lines.append(f"  called before: {one.check} on {one.case!r}{with_these}")
    lines.append(f"  {again}")
    if failure.replay is not None:
        lines.append(f"  replay: {replay_line(failure, called)}")
        lines.append(f"  or in Python: {python_line(failure)}")
    return "\n".join(lines)


def replay_line(failure: Failure, called: str | None = None) -> str:
    """The command that runs a saved example again; "" if it was not saved."""
    return "" if failure.replay is None else f"{called or program()} replay {shlex.quote(failure.replay)}"


def python_line(failure: Failure) -> str:
    """The line of Python that does the same; "" if it was not saved."""
    return "" if failure.replay is None else f"import attention_gate; attention_gate.replay({failure.replay!r})"


def _once(details: tuple[str, ...], check: str, shown: dict[tuple[str, ...], str]) -> list[str]:
    """The lines of a finding; frames that have been shown before are not shown again."""
    lines: list[str] = []
    frames: list[str] = []
    for line in (*details, ""):
        if line.startswith("  "):
            frames.append(line)
            continue
        block = tuple(frames)
        if any(one.lstrip().startswith("File ") for one in block) and block in shown:
            lines.append(f"  (where {shown[block]} was, above)" if shown[block] != check else "  (the same place)")
        else:
            shown[block] = check
            lines += frames
        frames = []
        lines += [line] if line else []
    return lines


def _line(check: CheckResult) -> str:
    line = f"{MARKS[check.outcome]:>8}  {check.name:<13}"
    if check.outcome == "pass" or check.failure is not None:
        line += f" {check.examples:>6} examples {check.seconds:>6.1f} s "
    return f"{line} {detail(check)}".rstrip()


def detail(check: CheckResult) -> str:
    """What is said of a check in its line: what went wrong, or what it used and measured, or why it was not tried."""
    if check.outcome == "pass":
        used = f"{check.budget_used:.0%} of the error budget used" if check.budget_used else ""
        return "; ".join(words for words in (used, check.remark) if words)
    return check.reason if check.failure is None else check.failure.finding.headline


def blocked(report: Report) -> list[str]:
    """The blocked checks in a line for each check that blocks them: they were not tried, so they are not failures."""
    found: dict[str, list[str]] = {}
    for check in report.checks:
        if check.outcome == "blocked":
            found.setdefault(check.reason, []).append(check.name)
    return [f"{MARKS['blocked']:>8}  {reason}: {', '.join(names)}" for reason, names in found.items()]
