"""The report as one HTML file that needs nothing else: no network, no script, no other file."""

from __future__ import annotations

from dataclasses import dataclass

from markupsafe import Markup

from attention_gate.verify.checks.results import CheckResult, Failure
from attention_gate.verify.checks.strength import KillRow, kill_rows
from attention_gate.verify.judge.measurements import BytesMoved, Cell
from attention_gate.verify.report import colours, pictures, plots, sight
from attention_gate.verify.report.conclusions import VERDICTS, counted, covered
from attention_gate.verify.report.drift import Drift
from attention_gate.verify.report.filling import filled
from attention_gate.verify.report.text import failure_text, python_line, replay_line
from attention_gate.verify.run.judgement import Report

#: Outcomes as a reader sees them, and what kind of news they are.
OUTCOMES = {
    "pass": ("passed", "good"),
    "fail": ("failed", "bad"),
    "crash": ("crashed", "bad"),
    "hang": ("hung", "bad"),
    "stale": ("stale", "bad"),
    "known": ("known failure", "warn"),
    "blocked": ("blocked", "faint"),
    "not run": ("not run", "warn"),
    "unsupported": ("not judged", "faint"),
}


@dataclass(frozen=True)
class Row:
    """A row of the matrix: a check, and its examples by number of ranks and dtype; None where it had none."""

    check: CheckResult
    cells: tuple[Cell | None, ...]


@dataclass(frozen=True)
class FailurePart:
    """One failure with its pictures."""

    check: CheckResult
    failure: Failure
    text: str
    sight: Markup
    timeline: Markup
    replay: str
    python: str


def html(report: Report, changes: Drift | None = None) -> str:
    """The whole report as an HTML document, with the changes since an earlier one.

    ValueError if matplotlib, which draws its plots, is missing.

    >>> Path("report.html").write_text(attention_gate.html(attention_gate.check("my_module:attend", pictures=True)))
    """
    plots.needed()
    verdict = {"pass": "good", "fail": "bad"}.get(report.verdict, "warn")
    columns = sorted({(cell.ranks, cell.dtype) for check in report.checks for cell in check.measured.cells})
    return filled(
        "report.html.j2",
        {
            **surroundings(f"{report.shown}: {VERDICTS[report.verdict]}"),
            "report": report,
            "verdict": VERDICTS[report.verdict],
            "kind": verdict,
            "counted": counted(report),
            "changes": changes,
            "covered": covered(report.coverage) if report.coverage.pairs and report.verdict != "fail" else "",
            "outcomes": OUTCOMES,
            "columns": columns,
            "ranks": [(ranks, sum(column[0] == ranks for column in columns)) for ranks in _distinct(columns)],
            "rows": _rows(report, columns),
            "budgets": _budgets(report),
            "traffic": _traffic(report),
            "kills": _kills(report),
            "failures": [_failure(check, check.failure, report) for check in report.checks if check.failure],
        },
    )


def surroundings(title: str) -> dict[str, object]:
    """What every page needs: its title, and its colours on light and on dark ground."""
    return {"title": title, "light": colours.css(dark=False), "dark": colours.css(dark=True)}


def _distinct(columns: list[tuple[int, str]]) -> list[int]:
    return list(dict.fromkeys(ranks for ranks, _ in columns))


def _rows(report: Report, columns: list[tuple[int, str]]) -> list[Row]:
    rows = []
    for check in report.checks:
        cells = {(cell.ranks, cell.dtype): cell for cell in check.measured.cells}
        if cells:
            rows.append(Row(check, tuple(cells.get(column) for column in columns)))
    return rows


def _budgets(report: Report) -> dict[str, object] | None:
    """The plot of the budgets, and its figures: by tensor and dtype, over the numbers of ranks."""
    by_tensor: dict[tuple[str, str], dict[int, float]] = {}
    worst: dict[str, dict[int, float]] = {}
    for check in report.checks:
        for one in check.measured.budgets:
            figures = by_tensor.setdefault((one.tensor, one.dtype), {})
            figures[one.ranks] = max(figures.get(one.ranks, 0.0), one.worst)
            line = worst.setdefault(one.tensor, {})
            line[one.ranks] = max(line.get(one.ranks, 0.0), one.worst)
    if not by_tensor:
        return None
    ranks = sorted({number for figures in by_tensor.values() for number in figures})
    lines = {tensor: dict(sorted(line.items())) for tensor, line in worst.items()}
    return {"plot": Markup(plots.budgets(lines)), "ranks": ranks, "figures": dict(sorted(by_tensor.items()))}


def _traffic(report: Report) -> dict[str, object] | None:
    found: list[BytesMoved] = [one for check in report.checks for one in check.measured.traffic]
    return {"plot": Markup(plots.traffic(found)), "figures": found} if found else None


def _kills(report: Report) -> dict[str, object] | None:
    """The recorded kill matrix for what this target declares; None for a run that is unlike the measured ones."""
    if report.strength is None:
        return None
    passed = [check.name for check in report.checks if check.outcome == "pass"]
    rows: dict[str, KillRow] = kill_rows(report.profile, passed, report.declared)
    names = [check.name for check in report.checks if any(check.name in row.caught_at for row in rows.values())]
    return {"rows": rows, "checks": names, "words": str(report.strength)}


def _failure(check: CheckResult, failure: Failure, report: Report) -> FailurePart:
    dialect = "longnet" if report.declared is None else report.declared.dialect
    seen = None
    if failure.positions is not None:
        seen = sight.of_finding(failure.example.case, failure.finding, failure.positions, dialect)
    trace = failure.trace
    drawn = ""
    if trace is not None and (trace.messages or trace.stopped or any(trace.logs)):
        title = f"the minimal case on {trace.size} ranks"
        drawn = pictures.svg([(title, trace)], standalone=False, prefix=f"{check.name}-")
    return FailurePart(
        check,
        failure,
        failure_text(check, failure, dense=report.dense),
        Markup(sight.svg(seen, standalone=False) if seen is not None else ""),
        Markup(drawn),
        replay_line(failure),
        python_line(failure),
    )
