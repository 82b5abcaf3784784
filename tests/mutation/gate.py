"""Whether the gate notices a mutant of impls: all its checks in a small profile, in worlds that stay up."""

from __future__ import annotations

import atexit
import itertools
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.mutation.judges import changed_package
from tests.mutation.operators import Mutant
from verify.gate import Options, Silent, judge
from verify.session import Session
from verify.target import TargetError, load, parse_source
from verify.world.local import Worlds

#: Files that only one implementation imports; a mutant of any other file is judged by both, which differ in what they
#: ask of the shared ones.
_ONLY = {"robust.py": ("robust",), "collective.py": ("collective",)}

_numbers = itertools.count()


class Gate:
    """Judges mutants one after another; ``profile`` and ``checks`` as on the command line."""

    def __init__(self, profile: str = "quick", checks: Sequence[str] | None = None) -> None:
        self._worlds = Worlds()
        self._folder = tempfile.TemporaryDirectory(prefix="attention-gate-mutation-")
        self._options = Options(profile=profile, checks=None if checks is None else tuple(checks), fail_fast=True)
        atexit.register(self.close)
        sys.path.insert(0, self._folder.name)

    def close(self) -> None:
        """End the worlds."""
        self._worlds.close()
        self._folder.cleanup()

    def noticed_by(self, mutant: Mutant) -> str:
        """The check that notices the mutant, "loading" if it cannot even be imported; "" if nobody does."""
        name = f"mutant_{next(_numbers)}"
        folder = Path(self._folder.name)
        changed_package(mutant, folder, name)
        for implementation in _ONLY.get(Path(mutant.file).name, ("robust", "collective")):
            source = parse_source(f"{name}.{implementation}:attend")
            try:
                session = Session(load(source), source, self._worlds, (1, 2, 3, 4))
                report = judge(session, self._options, Silent())
            except TargetError:
                return "loading"
            if report.verdict == "error":
                raise RuntimeError(f"the harness failed on {mutant.key}: {report.error}")
            for check in report.checks:
                if check.failure is not None:
                    return check.name
        return ""
