"""Mutants put before the checks: which of them catch it, after how many examples, and its minimal case."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks import BY_NAME, CHECKS, Check
from attention_gate.verify.checks.check import Parameters
from attention_gate.verify.checks.results import Example
from attention_gate.verify.judge import oracle
from attention_gate.verify.judge.session import Session
from attention_gate.verify.mutants.build import write
from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.run.search import drawn, search
from attention_gate.verify.target.loading import load
from attention_gate.verify.target.source import parse_source
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.finding import Finding
from attention_gate.verify.world.local import Worlds

#: Examples for a check that need not catch the mutant: enough to fill the matrix, few enough to be quick.
GLANCE = 10
_SHORT_GLANCES = {
    "wire": 2,
    "traffic": 2,
    "overlap": 1,
    "memory": 1,
    "schedules": 4,
    "shapes": 3,
    "callers": 5,
    "compiled": 0,
}

#: Answers of the oracle that are kept, as mutants are tried by the same examples: some hundred megabytes.
_ANSWERS = 1000

#: Seconds that the search for the minimal case of a mutant may take.
SHRINK_SECONDS = 4.0

#: What the cells of a mutant may cost before the rest is left out: a hang or a crash takes new processes.
_COSTS = {"hang": 3, "crash": 1}
_COST_LIMIT = 6


@dataclass(frozen=True)
class Cell:
    """One mutant before one check: whether it was caught, and at which example, after how many seconds."""

    check: str
    caught: bool
    examples: int
    seconds: float
    finding: Finding | None = None
    example: Example | None = None


@dataclass
class Trial:
    """One mutant before the checks. ``minimal`` is the smallest case in which its first check still catches it."""

    mutant: Mutant
    seed: int
    cells: dict[str, Cell] = field(default_factory=dict)
    minimal: Example | None = None
    finding: Finding | None = None

    @property
    def caught(self) -> bool:
        """Whether any check caught it."""
        return any(cell.caught for cell in self.cells.values())

    @property
    def missed(self) -> tuple[str, ...]:
        """Checks that were to catch it and did not."""
        return tuple(name for name in self.mutant.caught_by if name in self.cells and not self.cells[name].caught)

    @property
    def as_expected(self) -> bool:
        """Whether it was caught by all checks that are meant for it; if it changes nothing, whether by none."""
        if self.mutant.keeps:
            return not self.caught
        return self.caught and not self.missed

    @property
    def first(self) -> Cell | None:
        """The cell of the check that is meant for it, or else of the first that caught it."""
        order = [*self.mutant.caught_by, *self.cells]
        return next((self.cells[name] for name in order if name in self.cells and self.cells[name].caught), None)


class _Examples:
    """Examples that are drawn when the first mutant asks for them, and kept for the others."""

    def __init__(self, drawn: Iterator[tuple[Case, Parameters]]) -> None:
        self._drawn = drawn
        self._there: list[tuple[Case, Parameters]] = []

    def __iter__(self) -> Iterator[tuple[Case, Parameters]]:
        for number in count():
            if number == len(self._there):
                example = next(self._drawn, None)
                if example is None:
                    return
                self._there.append(example)
            yield self._there[number]


class Bench:
    """Where mutants are tried: worlds that stay up, a folder for their modules, and the profile's own examples."""

    def __init__(
        self,
        *,
        profile: str = "standard",
        world_sizes: Sequence[int] = (1, 2, 3, 4),
        shrink_seconds: float = SHRINK_SECONDS,
        device: str = "cpu",
    ) -> None:
        self.profile = profile
        self.shrink_seconds = shrink_seconds
        self.world_sizes = tuple(world_sizes)
        oracle.keep(_ANSWERS)
        self._worlds, self._network = Worlds(device=device), SimulatedWorlds(device=device)
        self._folder = tempfile.TemporaryDirectory(prefix="attention-gate-mutants-")
        self._examples: dict[Any, _Examples] = {}

    def __enter__(self) -> Bench:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the worlds and remove the modules."""
        self._worlds.close()
        self._network.close()
        self._folder.cleanup()

    def start(self) -> None:
        """Start all worlds, so that no mutant pays for it."""
        for size in self.world_sizes:
            self._worlds[size].start()

    def session(self, mutant: Mutant) -> Session:
        """The trial of a mutant."""
        source = parse_source(write(mutant, Path(self._folder.name)))
        return Session(load(source), source, self._worlds, self.world_sizes, network=self._network)

    def trial(self, mutant: Mutant, *, seed: int = 0, matrix: bool = True, shrink: bool = True) -> Trial:
        """Put a mutant before the checks: those meant for it until they catch it, the others for a glance.

        Without ``matrix`` it ends once it is caught; cells that are left out then, or because the mutant has cost too
        many processes, are not there. A mutant that no check has caught at last meets all examples of all checks, as
        it would in a run of the gate.
        """
        session = self.session(mutant)
        trial = Trial(mutant, seed)
        meant = [BY_NAME[name] for name in mutant.caught_by]
        others = [check for check in CHECKS if check not in meant]
        cost = 0
        for check in (*meant, *others):
            if not check.runs_on(session.device) or check.missing(session.target, session.world_sizes):
                continue
            if trial.caught and (not matrix or (cost >= _COST_LIMIT and check not in meant)):
                continue
            trial.cells[check.name] = cell = self._try(
                check, session, seed, None if check in meant else _SHORT_GLANCES.get(check.name, GLANCE)
            )
            cost += 0 if cell.finding is None else _COSTS.get(cell.finding.outcome, 0)
        if not trial.caught and not mutant.keeps:
            for check in others:
                if check.name in trial.cells and not trial.caught:
                    trial.cells[check.name] = self._try(check, session, seed, None)
        if shrink and trial.first is not None:
            self._shrink(trial, session)
        return trial

    def again(self, mutant: Mutant, *, seed: int) -> Trial:
        """Put a mutant that has been tried before the checks of another seed, until one catches it, with less patience.

        It is known by now whether it hangs.
        """
        with self._worlds.hurried():
            return self.trial(mutant, seed=seed, matrix=False, shrink=False)

    def examples(self, check: Check, target: Target, seed: int) -> Iterator[tuple[Case, Parameters]]:
        """The very examples that the profile tries with this seed; drawn once, and as many as are asked for.

        They depend on what the target supports and on nothing else.
        """
        supports = repr([value for name, value in sorted(vars(target).items()) if name != "attend"])
        key = (check.name, seed, supports, target.returns_lse)
        if key not in self._examples:
            session = Session(target, parse_source("none:none"), self._worlds, self.world_sizes, network=self._network)
            planned = check.examples(self.profile)
            self._examples[key] = _Examples(drawn(check, session, examples=planned, seed=seed))
        return iter(self._examples[key])

    def _try(self, check: Check, session: Session, seed: int, limit: int | None) -> Cell:
        start, tried = time.monotonic(), 0
        for case, parameters in islice(self.examples(check, session.target, seed), limit):
            tried += 1
            finding = check.examine(session, case, parameters).finding
            if finding is not None:
                seconds = time.monotonic() - start
                return Cell(check.name, True, tried, seconds, finding, Example(check.name, case, parameters))
        return Cell(check.name, False, tried, time.monotonic() - start)

    def _shrink(self, trial: Trial, session: Session) -> None:
        assert trial.first is not None
        check = BY_NAME[trial.first.check]
        planned = check.examples(self.profile)
        with self._worlds.hurried():
            found = search(check, session, examples=planned, seed=trial.seed, shrink_seconds=self.shrink_seconds)
        trial.minimal = found.example or trial.first.example
        trial.finding = found.finding or trial.first.finding
