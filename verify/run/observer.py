"""Observers of a run: its progress on a terminal, and the record that is kept of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from attention_gate.verify.checks.check import Check
from attention_gate.verify.checks.results import CheckResult, Failure
from attention_gate.verify.judge.session import Session
from attention_gate.verify.run.judgement import Report


class Progress(Protocol):
    """Receives progress events of a run."""

    def started(self, check: Check, examples: int) -> None:
        """A check begins, with that many examples to try."""

    def advanced(self, examples: int) -> None:
        """That many examples of the present check have been judged."""

    def finished(self, result: CheckResult) -> None:
        """A check has ended, or was not tried."""


class Silent:
    """Progress that is not shown."""

    def started(self, check: Check, examples: int) -> None: ...

    def advanced(self, examples: int) -> None: ...

    def finished(self, result: CheckResult) -> None: ...


class Record:
    """Keeps the findings of a run, in files or elsewhere. This one keeps nothing."""

    def failed(self, session: Session, failure: Failure) -> Failure:
        """A check has failed; returns the failure with the place where it was kept."""
        return failure

    def so_far(self, report: Callable[[], Report]) -> None:
        """After each check: ``report()`` is the report on what has been judged by now."""

    def ended(self, report: Report) -> Report:
        """The run has ended, as the report says; returns the report, with a note if it could not be kept."""
        return report


#: The record of a run of which nothing is kept.
NOT_KEPT = Record()
