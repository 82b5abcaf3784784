"""All checks as a table that fills while they run: how far each is, its rate, and how long the rest may take."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from attention_gate.verify.checks import Check
from attention_gate.verify.checks.results import CheckResult
from attention_gate.verify.report.marks import MARKS, STYLES

_REDRAW_SECONDS = 0.1

#: Lines of the table's head and of the line below it.
_AROUND = 4

#: Of a check of whose rate nothing is known yet, seconds that an example takes.
_USUAL_SECONDS = 0.05


class LiveTable:
    """Draws on standard error and takes the table away at the end: the report repeats what is in it.

    >>> with LiveTable(checks, "quick") as progress:
    ...     attention_gate.check(target, progress=progress)
    """

    def __init__(self, checks: Sequence[Check], profile: str, console: Console | None = None) -> None:
        self._checks = list(checks)
        self._profile = profile
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._results: dict[str, CheckResult] = {}
        self._now: str | None = None
        self._planned = self._judged = 0
        self._start = self._began = time.monotonic()
        self._drawn = 0.0

    def __enter__(self) -> LiveTable:
        self._live.start()
        self._draw()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.update(Text(""))
        self._live.stop()

    def started(self, check: Check, examples: int) -> None:
        """A check begins."""
        self._now, self._planned, self._judged = check.name, examples, 0
        self._start = time.monotonic()
        self._draw()

    def advanced(self, examples: int) -> None:
        """Show how many of its examples are judged."""
        self._judged = examples
        if time.monotonic() - self._drawn > _REDRAW_SECONDS:
            self._draw()

    def finished(self, result: CheckResult) -> None:
        """A check has ended, or was not tried."""
        self._results[result.name] = result
        self._now = None
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        table = Table(box=None, pad_edge=False, show_edge=False, header_style="bold")
        table.add_column("check", no_wrap=True)
        table.add_column("", no_wrap=True)
        table.add_column("examples", justify="right", no_wrap=True)
        table.add_column("per second", justify="right", no_wrap=True)
        table.add_column("seconds", justify="right", no_wrap=True)
        for check in self._shown():
            table.add_row(*self._row(check))
        self._live.update(Group(table, Text(self._below(), style="dim")), refresh=True)

    def _shown(self) -> list[Check]:
        """As many checks as the terminal has lines for, the present one among them."""
        lines = max(self._console.height - _AROUND, 3)
        present = next((k for k, check in enumerate(self._checks) if check.name == self._now), len(self._results))
        first = max(0, min(present - lines // 2, len(self._checks) - lines))
        return self._checks[first : first + lines]

    def _row(self, check: Check) -> tuple[Text | str, ...]:
        result = self._results.get(check.name)
        if result is not None:
            mark = Text(MARKS[result.outcome], style=STYLES[result.outcome])
            if not result.examples:
                return check.name, mark, "", "", ""
            rate = f"{result.examples / max(result.seconds, 1e-3):.0f}"
            return check.name, mark, str(result.examples), rate, f"{result.seconds:.1f}"
        if check.name == self._now:
            seconds = time.monotonic() - self._start
            rate = f"{self._judged / max(seconds, 1e-3):.0f}"
            judged = f"{self._judged} of {self._planned}"
            return Text(check.name, style="bold"), Text("…", style="bold"), judged, rate, f"{seconds:.1f}"
        return Text(check.name, style="dim"), "", "", "", ""

    def _below(self) -> str:
        """ "3 of 24 checks, 63 examples, 12 s; about 40 s left"."""
        done = sum(result.examples for result in self._results.values()) + self._judged * (self._now is not None)
        words = f"{len(self._results)} of {len(self._checks)} checks, {done:,} examples, "
        return words + f"{time.monotonic() - self._began:.0f} s; about {self._left():.0f} s left"

    def _left(self) -> float:
        """Seconds for what is not judged yet, at the rate of what is."""
        judged = sum(result.examples for result in self._results.values())
        seconds = sum(result.seconds for result in self._results.values())
        each = seconds / judged if judged else _USUAL_SECONDS
        waiting = [check for check in self._checks if check.name not in self._results and check.name != self._now]
        examples = sum(check.examples(self._profile) for check in waiting)
        if self._now is None:
            return each * examples
        present = (time.monotonic() - self._start) / self._judged if self._judged else each
        return each * examples + present * max(self._planned - self._judged, 0)
