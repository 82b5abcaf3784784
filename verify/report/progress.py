"""Progress: on a terminal a table that fills, elsewhere a plain line for each check that ends."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import IO

from attention_gate.verify.checks import Check
from attention_gate.verify.checks.results import CheckResult
from attention_gate.verify.report.terminal import is_rich
from attention_gate.verify.run.observer import Progress


class PlainProgress:
    """Writes a line on standard error for each check that ends.

    >>> with progress_of(checks, "quick") as progress:
    ...     attention_gate.check(target, progress=progress)
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr

    def __enter__(self) -> PlainProgress:
        return self

    def __exit__(self, *_: object) -> None: ...

    def started(self, check: Check, examples: int) -> None: ...

    def advanced(self, examples: int) -> None: ...

    def finished(self, result: CheckResult) -> None:
        """A check has ended, or was not tried."""
        rate = f", {result.examples / result.seconds:.0f}/s" if result.seconds > 0 else ""
        self._stream.write(f"{result.name}: {result.outcome} ({result.examples} examples{rate})\n")
        self._stream.flush()


def progress_of(checks: Sequence[Check], profile: str) -> AbstractContextManager[Progress]:
    """The progress of a run of these checks on standard error: a table on a terminal, else lines."""
    if is_rich(sys.stderr):
        from attention_gate.verify.report.live_table import LiveTable

        return LiveTable(checks, profile)
    return PlainProgress()
