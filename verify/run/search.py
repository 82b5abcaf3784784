"""The search for a failing example, and from it for a minimal one, across process boundaries."""

from __future__ import annotations

import contextlib
import json
import random
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

import hypothesis
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.coverage import covered_pairs
from attention_gate.verify.case.from_bytes import integers
from attention_gate.verify.case.options import Row, Space, covering_rows, feasible_pairs, pairs
from attention_gate.verify.case.strategies import cases
from attention_gate.verify.checks.check import Check, Parameters
from attention_gate.verify.checks.results import Example
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.measurements import Tally
from attention_gate.verify.judge.session import Session
from attention_gate.verify.run.hypothesis_storage import storage_elsewhere
from attention_gate.verify.run.minimal import Reduction
from attention_gate.verify.world.finding import Finding

#: Seconds that the search for a smaller failing example may take, once there is one.
SHRINK_SECONDS = 6.0

#: Extra seconds for finding the sizes from which on the minimal example fails.
_THRESHOLD_SECONDS = 2.0

#: How many times more examples are drawn until enough distinct ones have been judged: a small space has few.
_ATTEMPTS = 3

#: Bytes that the choices of one example are made from; an example takes some forty.
_BYTES = 512


class NoExamples(Exception):
    """A check found no example to judge; its silence must not be taken for a pass."""


@dataclass
class Searched:
    """The result of a search: distinct examples judged, the largest share of a budget and the largest remark, the
    minimal failing example."""

    examples: int = 0
    budget_used: float = 0.0
    remark: tuple[float, str] = (0.0, "")
    finding: Finding | None = None
    example: Example | None = None
    first_failure_after: int | None = None
    tally: Tally = field(default_factory=Tally)


def search(
    check: Check,
    session: Session,
    *,
    examples: int,
    seed: int,
    shrink_seconds: float = SHRINK_SECONDS,
    progress: Callable[[int], None] = lambda examples: None,
) -> Searched:
    """Try that many examples of a check, or the least that it asks for; the same seed tries the same ones.

    Ends at the first failure, made minimal.
    """
    with storage_elsewhere():
        return _searched(check, session, max(examples, check.least), seed, shrink_seconds, progress)


def drawn(check: Check, session: Session, *, examples: int, seed: int) -> Iterator[tuple[Case, Parameters]]:
    """The very examples that ``search`` tries as long as none fails, one by one; none of them is examined.

    >>> next(drawn(BY_NAME["forward"], session, examples=80, seed=0))
    """
    passing = replace(check, examine=lambda session, case, parameters: Verdict(0.0))
    found = _Search(passing, session, 0.0, lambda examples: None)
    made = _drawn(found, max(examples, check.least), seed)
    while True:
        with storage_elsewhere():
            example = next(made, None)
            if example is None:
                return
            known = found.result.examples
            found.attempt(*example)
        if found.result.examples > known:
            yield example


def _searched(
    check: Check, session: Session, examples: int, seed: int, shrink_seconds: float, progress: Callable[[int], None]
) -> Searched:
    found = _Search(check, session, shrink_seconds, progress)
    with contextlib.closing(_drawn(found, examples, seed)) as made:
        for example in made:
            found.attempt(*example)
    if found.failed and shrink_seconds > 0:
        assert found.result.example is not None
        of_this_case = st.tuples(st.just(found.result.example.case), check.parameters(session))
        axes = check.space(session.target, session.world_sizes)
        found.reduce(axes, _Attempts(found, of_this_case, seed).simplest())
    return found.result


def _drawn(found: _Search, examples: int, seed: int) -> Generator[tuple[Case, Parameters], None, None]:
    """Examples until so many have been judged or one has failed; ``found`` attempts each before the next is asked for.

    NoExamples if none could be judged.
    """
    check, session = found.check, found.session
    axes = check.space(session.target, session.world_sizes)
    largest = session.largest_world
    rows = covering_rows(axes, largest)

    extra_cases = check.extra_cases(session.target, session.world_sizes)
    if session.device != "cpu" and check.name in session.network.checks:
        extra_cases = None  # they are of more ranks, and ranks that share a GPU take turns

    def attempts_of(drawn: st.SearchStrategy[Case], chance: object = seed) -> _Attempts:
        fitted = drawn.map(lambda case: check.fitted(session, case))
        return _Attempts(found, st.tuples(fitted, check.parameters(session)), chance)

    @cache
    def attempts_in(options: tuple[tuple[str, tuple[Any, ...]], ...]) -> _Attempts:
        narrowed: dict[str, Sequence[Any]] = {**axes, **dict(options)}
        narrow = cases(narrowed, covering_rows(narrowed, largest), session.world_sizes, check.max_rows)
        return attempts_of(narrow, f"{seed} {options}")

    def attempts(rows: list[Row], roam: bool) -> _Attempts:
        usual = cases(axes, rows, session.world_sizes, check.max_rows, roam)
        if not roam or extra_cases is None:
            return attempts_of(usual)
        last = check.extra_in - 1
        return attempts_of(integers(0, last).flatmap(lambda number: extra_cases if number == last else usual))

    some = attempts(rows, roam=True)
    yield from some.one(simplest=True)
    if extra_cases is not None and not found.failed:
        yield from attempts_of(extra_cases).one(simplest=True)  # one is tried however few examples there are
    for options, parameters in check.once(session, axes):
        narrow = attempts_in(tuple((name, tuple(those)) for name, those in options.items()))
        wanted = min(found.result.examples + 1, examples)
        for _ in range(_ATTEMPTS):  # some bytes make no example, or one that was tried before
            if found.result.examples < wanted and not found.failed:
                yield from narrow.one(parameters=parameters)
    while found.result.examples < examples and some.made < _ATTEMPTS * examples and not found.failed:
        yield from some.one()
    if not found.result.examples:
        raise NoExamples(
            f"check {check.name} has judged nothing: Hypothesis {hypothesis.__version__} made no example in "
            f"{some.made} attempts; try another version of it"
        )
    if check.pairwise:
        # Every pair of options must have occurred: rows with pairs that chance left out are tried now.
        missing = feasible_pairs(axes, largest) - covered_pairs(found.cases)
        for row in rows:
            tried = len(found.cases)
            if not found.failed and missing & set(pairs(row)):
                some = attempts([row], roam=False)
                while missing & set(pairs(row)) and some.made < _ATTEMPTS and not found.failed:
                    yield from some.one()
                    missing -= covered_pairs(found.cases[tried:])


class _Attempts:
    """Examples of one strategy, drawn from bytes that the seed alone decides.

    Hypothesis makes a value from the bytes. Its own way to generate varies each example several times, to find bugs in
    parsers; of a case that yields repetitions and near repetitions, half as many of the rare corners, at three times
    the cost. Its own way to shrink knows bytes alone; attention_gate.verify.run.minimal knows what a simpler case is.
    """

    def __init__(self, found: _Search, strategy: st.SearchStrategy[tuple[Case, Parameters]], seed: object) -> None:
        self.made = 0
        self._found = found
        self._next: bytes | None = None
        self._drawn: tuple[Case, Parameters] | None = None
        self._random = random.Random(f"{found.check.name} {seed}")

        @settings(
            database=None,
            deadline=None,
            phases=(Phase.generate,),
            verbosity=Verbosity.quiet,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def attempt(example: tuple[Case, Parameters]) -> None:
            self._drawn = example

        self._from_bytes = attempt.hypothesis.fuzz_one_input  # type: ignore[attr-defined]

    def one(self, simplest: bool = False, parameters: Parameters | None = None) -> Iterator[tuple[Case, Parameters]]:
        """One more example, with these parameters if any are given, or none; the next is drawn while it is judged."""
        if simplest:
            self._next = bytes(_BYTES)
            self._drawn = None
        self._draw()
        example = self._drawn
        self._next = None
        self._drawn = None
        self.made += 1
        if example is None:
            return  # those bytes make no example
        session = self._found.session
        session.meanwhile = self._draw_ahead
        try:
            yield example[0], example[1] if parameters is None else parameters
        finally:
            session.meanwhile = None

    def simplest(self) -> Parameters:
        """The parameters of the simplest example; none if it has none."""
        self._from_bytes(bytes(_BYTES))
        return self._drawn[1] if self._drawn is not None else {}

    def _draw(self) -> None:
        """Draw the next example, unless that has been done."""
        if self._drawn is None:
            self._next = self._next or self._random.randbytes(_BYTES)
            self._from_bytes(self._next)

    def _draw_ahead(self) -> None:
        with contextlib.suppress(Exception):  # it will be raised again where it is needed
            self._draw()


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

    def attempt(self, case: Case, parameters: Parameters) -> None:
        """Judge an example that was drawn, unless it was before."""
        if _key(case, parameters) in self._findings or self.failed:
            return
        finding = self._found(case, parameters)
        if finding is not None:
            self._until = time.monotonic() + self._shrink_seconds
            self.result.first_failure_after = self.result.examples
            self.result.finding, self.result.example = finding, Example(self.check.name, case, parameters)

    def reduce(self, axes: Space, simplest: Parameters) -> None:
        """Make the failing example minimal, while there is time for it."""
        assert self.result.example is not None
        reduction = Reduction(self._fails, axes, partial(self.check.fitted, self.session), simplest)
        case, parameters = reduction.minimal(self.result.example.case, self.result.example.parameters)
        finding = self._findings[_key(case, parameters)]
        assert finding is not None
        self._until = max(self._until or 0.0, time.monotonic() + _THRESHOLD_SECONDS)
        thresholds = reduction.thresholds(case, parameters)
        self.result.finding = replace(finding, details=(*finding.details, *thresholds))
        self.result.example = Example(self.check.name, case, parameters)

    def _fails(self, case: Case, parameters: Parameters) -> bool | None:
        """Whether the example fails as the first failing one did; None if there is no time left to try it."""
        first = self.result.finding
        assert first is not None
        if _key(case, parameters) not in self._findings:
            assert self._until is not None
            if time.monotonic() > self._until:
                return None
        finding = self._found(case, parameters)
        return finding is not None and (first.outcome, first.tensor) == (finding.outcome, finding.tensor)

    def _found(self, case: Case, parameters: Parameters) -> Finding | None:
        key = _key(case, parameters)
        if key not in self._findings:
            self._findings[key] = self._judge(case, parameters)
        return self._findings[key]

    def _judge(self, case: Case, parameters: Parameters) -> Finding | None:
        shrinking = self.failed
        self.session.examined.append((self.check.name, case, parameters))
        with self.session.worlds.hurried() if shrinking else contextlib.nullcontext():
            verdict: Verdict = self.check.examine(self.session, case, parameters)
        if not shrinking:
            self.cases.append(case)
            self.result.examples += 1
            self.result.budget_used = max(self.result.budget_used, verdict.budget_used)
            self.result.remark = max(self.result.remark, verdict.remark)
            self.result.tally.add(case, verdict.budget_used, verdict.shares, verdict.traffic)
            self._progress(self.result.examples)
        return verdict.finding


def _key(case: Case, parameters: Parameters) -> str:
    return f"{case!r}{json.dumps(parameters, sort_keys=True)}"
