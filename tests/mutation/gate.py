"""Whether the gate notices a mutant of impls: its checks in a small profile, in worlds that stay up.

A mutant of impls.fused is judged through targets whose calls run there on a CPU, too: tests/mutation/served.py.
"""

from __future__ import annotations

import atexit
import itertools
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from attention_gate.verify.checks import BY_NAME, Check
from attention_gate.verify.judge.session import Session
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.run.judging import load_everywhere
from attention_gate.verify.run.search import search
from attention_gate.verify.target.loading import load
from attention_gate.verify.target.source import TargetError, parse_source
from attention_gate.verify.world.finding import Finding
from attention_gate.verify.world.local import Worlds
from tests.mutation.judges import changed_package
from tests.mutation.operators import Mutant
from tests.mutation.together import Together

#: What each implementation claims, as in tox.ini.
CLAIMS = {"robust": ("traffic", "overlap", "memory"), "collective": ("traffic",)}

#: Files that only one implementation imports; a mutant of any other file is judged by both, which differ in what they
#: ask of the shared ones.
_ONLY = {"impls/robust.py": ("robust",), "impls/collective.py": ("collective",)}

#: Targets of a mutant of impls.fused, and what they claim.
SERVED: dict[str, tuple[str, ...]] = {"ring": (), "zigzag": (), "gathering": ()}
_SERVED_SOURCE = Path(__file__).with_name("served.py")

#: Checks that take longer than all others together.
SLOW = ("schedules", "overlap", "memory")
FAST = tuple(name for name in BY_NAME if name not in SLOW)

_numbers = itertools.count()


class Gate:
    """Judges mutants one after another, each check on as many examples as the profile tells."""

    def __init__(self, profile: str = "quick") -> None:
        self._worlds, self._network = Worlds(), SimulatedWorlds()
        self._folder = tempfile.TemporaryDirectory(prefix="attention-gate-mutation-")
        self._profile = profile
        atexit.register(self.close)
        sys.path.insert(0, self._folder.name)

    def close(self) -> None:
        """End the worlds."""
        self._worlds.close()
        self._network.close()
        self._folder.cleanup()

    def noticed_by(self, mutant: Mutant | Together, checks: Iterable[str] = (*FAST, *SLOW)) -> str:
        """The first of the checks that notices the mutant, "loading" if it cannot be imported; "" if none does.

        Nothing is made minimal or explained, as nobody reads it: that takes longer than the search.
        """
        name = f"mutant_{next(_numbers)}"
        package = changed_package(mutant, Path(self._folder.name), name)
        try:
            if mutant.file.startswith("impls/fused/"):
                (package / "served.py").write_text(_SERVED_SOURCE.read_text().replace("from impls", f"from {name}"))
                sessions = [self._session(f"{name}.served:{each}", SERVED[each]) for each in SERVED]
            else:
                judged = sorted({name for file in mutant.sources for name in _ONLY.get(file, tuple(CLAIMS))})
                sessions = [self._session(f"{name}.{each}:attend", CLAIMS[each]) for each in judged]
        except TargetError:
            return "loading"
        for check in (BY_NAME[each] for each in checks):
            for session in sessions:
                if check.missing(session.target, session.world_sizes):
                    continue
                if found := self._finding(check, session):
                    return check.name if found.outcome == "fail" else f"{check.name} ({found.outcome})"
        return ""

    def _finding(self, check: Check, session: Session) -> Finding | None:
        """What the check finds; a hang, which a busy machine may feign, must be found twice."""
        planned = check.examples(self._profile)
        for _ in range(2):
            found = search(check, session, examples=planned, seed=0, shrink_seconds=0.0).finding
            if found is None or found.outcome != "hang":
                break
        return found

    def _session(self, name: str, claims: tuple[str, ...]) -> Session:
        source = parse_source(name)
        target = replace(load(source), claims=claims)
        session = Session(target, source, self._worlds, (1, 2, 3, 4), network=self._network)
        load_everywhere(session)
        return session
