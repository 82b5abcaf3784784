"""What was measured as one HTML file: a table for each workload, the plot, and the timelines."""

from __future__ import annotations

from collections.abc import Sequence

from markupsafe import Markup

from attention_gate.verify.compare import drawn_runs, tables
from attention_gate.verify.report import pictures, plots
from attention_gate.verify.report.filling import filled
from attention_gate.verify.report.page import surroundings


def html(rows: tables.Rows, drawn: Sequence[drawn_runs.Drawing], facts: dict[str, str]) -> str:
    """The whole comparison; ``facts`` say where it was measured. ValueError if matplotlib is missing."""
    plots.needed()
    runs = [("\n".join((one.title, *one.words[:1])), one.trace) for one in drawn if one.trace is not None]
    shares = tables.fractions(rows)
    return filled(
        "comparison.html.j2",
        {
            **surroundings("Implementations side by side"),
            "facts": facts,
            "tables": {name: tables.cells(measured) for name, measured in rows.items() if measured},
            "headings": tables.HEADINGS,
            "notes": {name: tables.notes(measured) for name, measured in rows.items()},
            "plot": Markup(plots.fractions(shares, standalone=False)) if any(shares.values()) else "",
            "timelines": Markup(pictures.svg(runs, standalone=False)) if runs else "",
            "undrawn": [(one.title, one.words) for one in drawn if one.words],
        },
    )
