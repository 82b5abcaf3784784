"""A judgement's report so far, kept in the folder of saved examples until it is complete."""

from __future__ import annotations

import contextlib
import json
import os

from verify.replay import write_whole
from verify.report import Report


class Checkpoint:
    """A file that says what has been judged, should the judgement be broken off; it goes once all is told.

    >>> checkpoint = Checkpoint("failures", "attend")
    >>> checkpoint.write(report)  # after each check
    >>> checkpoint.remove()

    ``folder`` may be None: then nothing is kept. ``trouble`` says in words why nothing could be written.
    """

    def __init__(self, folder: str | None, name: str) -> None:
        self.path = None if folder is None else os.path.abspath(os.path.join(folder, f"{name}-unfinished.json"))
        self.trouble = ""
        self._made_folder = False

    def write(self, report: Report) -> None:
        """Replace what the file says, whole or not at all; a folder that cannot be written breaks nothing off."""
        if self.path is None or self.trouble:
            return
        try:
            folder = os.path.dirname(self.path)
            if not os.path.isdir(folder):
                os.makedirs(folder)
                self._made_folder = True
            write_whole(self.path, json.dumps(report.to_json(), indent=2) + "\n")
        except OSError as error:
            self.trouble = f"what was judged so far could not be kept in {os.path.dirname(self.path)}: {error.strerror}"

    def remove(self) -> None:
        """Remove the file, and its folder if it was made for it and holds nothing else."""
        if self.path is not None:
            with contextlib.suppress(OSError):
                os.unlink(self.path)
            if self._made_folder:
                with contextlib.suppress(OSError):
                    os.rmdir(os.path.dirname(self.path))
