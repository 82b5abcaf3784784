"""The report on a terminal: the same words as the text has, as a table with colours."""

from __future__ import annotations

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from attention_gate.verify.report.conclusions import conclusions
from attention_gate.verify.report.drift import Drift
from attention_gate.verify.report.marks import MARKS, STYLES
from attention_gate.verify.report.text import blocked, detail, failures
from attention_gate.verify.run.judgement import Report

_VERDICTS = {"pass": "bold green", "fail": "bold red"}

#: How the lines of a failure begin that are shown in colour.
_LINES = {
    "  replay: ": "bold cyan",
    "  or in Python: ": "cyan",
    "  minimal case: ": "bold",
    "  known mistake: ": "yellow",
}


def show(report: Report, changes: Drift | None = None, console: Console | None = None) -> None:
    """Print the report on standard output; what failed, and how to see it again, comes last."""
    console = console or Console(highlight=False)
    table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim")
    table.add_column(justify="right", no_wrap=True)
    table.add_column("check", no_wrap=True)
    table.add_column("examples", justify="right", no_wrap=True)
    table.add_column("time", justify="right", no_wrap=True)
    table.add_column(overflow="fold")
    for check in report.checks:
        if check.outcome == "blocked":
            continue
        figures = (str(check.examples), f"{check.seconds:.1f} s") if check.examples else ("", "")
        mark = Text(MARKS[check.outcome], style=STYLES[check.outcome])
        table.add_row(mark, check.name, *figures, Text(detail(check)))
    for line in blocked(report):
        word, _, words = line.strip().partition("  ")
        table.add_row(Text(word, style=STYLES["blocked"]), "", "", "", Text(words))
    console.print(table)
    console.print()
    *lines, verdict = conclusions(report, changes)
    for line in lines:
        console.print(Text(line), style="dim" if line.startswith("not judged") else None)
    console.print(Text(verdict, style=_VERDICTS.get(report.verdict, "bold yellow")))
    for failure in failures(report):
        console.print()
        first, *rest = failure.splitlines()
        console.print(Text(first, style="bold red"))
        for line in rest:
            style = next((style for start, style in _LINES.items() if line.startswith(start)), "")
            if line.startswith(("  replay: ", "  or in Python: ")):
                console.print(Text(line, style=style), soft_wrap=True)  # copied as it stands
            else:
                words = line.lstrip()
                console.print(Padding(Text(words, style=style), (0, 0, 0, len(line) - len(words))))
