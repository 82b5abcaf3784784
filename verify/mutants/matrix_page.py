"""The kill matrix as one HTML file."""

from __future__ import annotations

from collections.abc import Sequence

from attention_gate.verify.checks import CHECKS
from attention_gate.verify.mutants.trial import Trial
from attention_gate.verify.report.filling import filled
from attention_gate.verify.report.page import surroundings


def html(trials: Sequence[Trial], lines: Sequence[str]) -> str:
    """All trials of the first seed as a table, a column for each check; ``lines`` sum them up."""
    first = {trial.mutant.name: trial for trial in reversed(trials)}
    rows = [trial for trial in trials if first[trial.mutant.name] is trial]
    tried = {name for trial in rows for name in trial.cells}
    return filled(
        "mutants.html.j2",
        {
            **surroundings("The gate on known mistakes"),
            "rows": rows,
            "checks": [check.name for check in CHECKS if check.name in tried],
            "lines": lines,
        },
    )
