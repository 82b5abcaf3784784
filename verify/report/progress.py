"""The progress line: which check is tried, how far it is, examples per second; and a line for each check that ends."""

from __future__ import annotations

import sys
import time
from typing import IO

from attention_gate.verify.checks import Check
from attention_gate.verify.checks.results import CheckResult

_REDRAW_SECONDS = 0.1


class ProgressLine:
    """Writes to standard error; on a terminal the line of the present check is redrawn in place.

    >>> with ProgressLine() as progress:
    ...     attention_gate.check(target, progress=progress)
    """

    def __init__(self, stream: IO[str] | None = None) -> None:
        self._stream = stream or sys.stderr
        self._terminal = self._stream.isatty()
        self._check: Check | None = None
        self._planned = 0
        self._start = 0.0
        self._drawn = 0.0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def started(self, check: Check, examples: int) -> None:
        """A check begins."""
        self._check, self._planned = check, examples
        self._start = time.monotonic()
        self.advanced(0)

    def advanced(self, examples: int) -> None:
        """Show how many of its examples are judged."""
        now = time.monotonic()
        if self._terminal and self._check is not None and now - self._drawn > _REDRAW_SECONDS:
            self._drawn = now
            rate = examples / max(now - self._start, 1e-3)
            self._clear()
            self._stream.write(f"{self._check.name}: {examples} of {self._planned} examples, {rate:.0f}/s")
            self._stream.flush()

    def finished(self, result: CheckResult) -> None:
        """A check has ended; on a terminal its line would only repeat the report."""
        if self._terminal:
            self._clear()
        else:
            rate = f", {result.examples / result.seconds:.0f}/s" if result.seconds > 0 else ""
            self._stream.write(f"{result.name}: {result.outcome} ({result.examples} examples{rate})\n")
            self._stream.flush()

    def _clear(self) -> None:
        if self._terminal:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
