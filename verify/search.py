"""The search for a failing example, and from it for a minimal one, across process boundaries."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis import strategies as st

from verify.case import Case
from verify.checks.check import Check, Detail
from verify.coverage import covered_pairs
from verify.findings import Finding
from verify.judge import Verdict
from verify.report import Example
from verify.session import Session
from verify.space import covering_rows, feasible_pairs, pairs
from verify.strategies import cases

#: Seconds that the search for a smaller failing example may take, once there is one.
SHRINK_SECONDS = 6.0

#: Hypothesis repeats itself; so many times more examples are drawn, until enough distinct ones have been judged.
_ATTEMPTS = 3


@dataclass
class Searched:
    """What a search amounted to: distinct examples judged, the worst share, and the minimal failing example."""

    examples: int = 0
    worst: float = 0.0
    finding: Finding | None = None
    example: Example | None = None
    first_failure_after: int | None = None


class _Wrong(Exception):
    """Tells Hypothesis that the example fails."""


def search(
    check: Check,
    session: Session,
    *,
    examples: int,
    seed: int,
    shrink_seconds: float = SHRINK_SECONDS,
    progress: Callable[[int], None] = lambda examples: None,
) -> Searched:
    """Try that many examples of a check; the same seed tries the same ones. Ends at the first failure, made minimal."""
    axes = check.space(session.target, session.world_sizes)
    largest = session.largest_world
    rows = covering_rows(axes, largest)
    fit = session.target.fit or (lambda case: case)
    strategy = st.tuples(cases(axes, rows, largest, check.max_rows).map(fit), check.detail(session))
    found = _Search(check, session, shrink_seconds, progress)

    @hypothesis_seed(seed)
    @settings(
        max_examples=_ATTEMPTS * examples,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=False,
    )
    @given(strategy)
    def attempt(example: tuple[Case, Detail]) -> None:
        if found.result.examples < examples or found.failed:
            found.attempt(*example)

    with contextlib.suppress(_Wrong):
        attempt()
    if check.pairwise:
        # Every pair of options must have occurred: rows with pairs that chance left out are tried now.
        for row in rows:
            missing = feasible_pairs(axes, largest) - covered_pairs(found.cases)
            if found.result.finding is None and missing & set(pairs(row)):
                drawn = cases(axes, [row], largest, check.max_rows).map(fit)
                _one(found, st.tuples(drawn, check.detail(session)), seed)
    return found.result


def _one(found: _Search, strategy: st.SearchStrategy[tuple[Case, Detail]], seed: int) -> None:
    @hypothesis_seed(seed)
    @settings(
        max_examples=3,
        database=None,
        deadline=None,
        phases=(Phase.generate,),
        verbosity=Verbosity.quiet,
        suppress_health_check=list(HealthCheck),
    )
    @given(strategy)
    def attempt(example: tuple[Case, Detail]) -> None:
        found.attempt(*example)

    with contextlib.suppress(_Wrong):
        attempt()


class _Search:
    """Remembers every verdict, so that no example runs twice and shrinking ends in bounded time."""

    def __init__(self, check: Check, session: Session, shrink_seconds: float, progress: Callable[[int], None]) -> None:
        self.check = check
        self.session = session
        self.result = Searched()
        self._progress = progress
        self._shrink_seconds = shrink_seconds
        self._until: float | None = None
        self._findings: dict[str, Finding | None] = {}
        self.cases: list[Case] = []

    @property
    def failed(self) -> bool:
        """Whether a failing example has been found."""
        return self._until is not None

    def attempt(self, case: Case, detail: Detail) -> None:
        """Judge the example; raise if it fails in the way that the first failing one did."""
        key = f"{case!r}{json.dumps(detail, sort_keys=True)}"
        if key not in self._findings:
            if self._until is not None and time.monotonic() > self._until:
                return  # no more time to look for a smaller one: only what is known to fail still does
            self._findings[key] = self._judge(case, detail)
        finding = self._findings[key]
        if finding is None:
            return
        first = self.result.finding
        if first is not None and (first.outcome, first.tensor) != (finding.outcome, finding.tensor):
            return  # another failure: shrinking keeps to one
        if first is None:
            self._until = time.monotonic() + self._shrink_seconds
            self.result.first_failure_after = self.result.examples
        self.result.finding, self.result.example = finding, Example(self.check.name, case, detail)
        raise _Wrong

    def _judge(self, case: Case, detail: Detail) -> Finding | None:
        shrinking = self.failed
        with self.session.worlds.hurried() if shrinking else contextlib.nullcontext():
            verdict: Verdict = self.check.examine(self.session, case, detail)
        if not shrinking:
            self.cases.append(case)
            self.result.examples += 1
            self.result.worst = max(self.result.worst, verdict.worst)
            self._progress(self.result.examples)
        return verdict.finding
