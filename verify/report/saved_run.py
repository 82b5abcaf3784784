"""Files that a run leaves in a folder: failing examples with their pictures, and the report until it is complete."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import replace

from attention_gate.verify.checks.results import Failure
from attention_gate.verify.judge.session import Session
from attention_gate.verify.report.drawings import draw
from attention_gate.verify.report.saved_examples import save
from attention_gate.verify.report.whole_files import write_whole
from attention_gate.verify.run.judgement import Report
from attention_gate.verify.run.observer import NOT_KEPT, Record


def record_in(folder: str | None, session: Session) -> Record:
    """The record of a run in that folder; None keeps nothing."""
    return NOT_KEPT if folder is None else SavedRun(folder, session.source.name)


class SavedRun(Record):
    """Saves each failing example at once, and the results after each check, so that an interrupted run leaves them.

    >>> record = SavedRun("failures", "attend")
    >>> record.so_far(lambda: report)  # failures/attend-unfinished.json
    >>> record.ended(report)  # and it is gone, unless the report has an error

    A folder that cannot be written breaks nothing off: the report has a note then.
    """

    def __init__(self, folder: str, name: str) -> None:
        self.folder = folder
        self.path = os.path.abspath(os.path.join(folder, f"{name}-unfinished.json"))
        self.trouble = ""
        self._made_folder = False

    def failed(self, session: Session, failure: Failure) -> Failure:
        """Save the failing example and its pictures."""
        try:
            failure = replace(failure, replay=save(self.folder, session, failure))
            draw(self.folder, session, failure)
        except OSError as error:
            failure = replace(failure, steadiness=f"{failure.steadiness}; its example could not be saved: {error}")
        return failure

    def so_far(self, report: Callable[[], Report]) -> None:
        """Replace what the file says, whole or not at all."""
        if self.trouble:
            return
        try:
            folder = os.path.dirname(self.path)
            if not os.path.isdir(folder):
                os.makedirs(folder)
                self._made_folder = True
            write_whole(self.path, json.dumps(report().to_json(), indent=2) + "\n")
        except OSError as error:
            self.trouble = f"could not write intermediate results to {os.path.dirname(self.path)}: {error.strerror}"

    def ended(self, report: Report) -> Report:
        """Keep the report if it has an error; otherwise remove the file, and its folder if nothing else is in it."""
        if report.error is not None:
            self.so_far(lambda: report)
        else:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            if self._made_folder:
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(self.path))
        return replace(report, notes=(*report.notes, self.trouble)) if self.trouble else report
