"""The report as Markdown, for the summary of a job or a comment on a pull request."""

from __future__ import annotations

from attention_gate.verify.report.conclusions import VERDICTS, counted, covered
from attention_gate.verify.report.drift import Drift
from attention_gate.verify.report.filling import filled
from attention_gate.verify.report.marks import MARKS
from attention_gate.verify.report.text import detail, failures
from attention_gate.verify.run.judgement import Report

#: Of longer texts the rest is left out: a job's summary has a limit.
_LONGEST = 12_000


def markdown(report: Report, drift: Drift | None = None) -> str:
    """The verdict, what has changed since an earlier report, a table of the checks, and each failure folded away."""
    rows = [(MARKS[check.outcome], check.name, check.examples or "", _cell(detail(check))) for check in report.checks]
    return filled(
        "report.md.j2",
        {
            "report": report,
            "verdict": VERDICTS[report.verdict],
            "counted": counted(report),
            "covered": covered(report.coverage) if report.verdict == "pass" and report.coverage.pairs else "",
            "rows": rows,
            "failures": [text[:_LONGEST] for text in reversed(failures(report))],
            "drift": drift,
        },
    )


def _cell(text: str) -> str:
    """Text as a cell of a table takes it."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("\n", " ")
