"""A run of long lengths: its parts in order, what they will take, which are finished, and what failed from where on."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from attention_gate.verify.judge.session import Session
from attention_gate.verify.long.estimate import SHORT, bytes_of_a_rank, rates
from attention_gate.verify.long.long_cases import cases_of
from attention_gate.verify.long.shortest_failure import shortest_failure
from attention_gate.verify.long.steps import STEPS, Outcome, examine
from attention_gate.verify.rank.memory_limits import in_words
from attention_gate.verify.target.source import TargetError

#: Limits of a step, in seconds at the least, and in units of what it is expected to take.
_LEAST_SECONDS, _TIMES = 120.0, 20.0


@dataclass(frozen=True)
class Part:
    """One step of one case at one length."""

    length: int
    case: str
    step: str

    def __str__(self) -> str:
        return f"{self.length} {self.case}, {self.step}"


@dataclass(frozen=True)
class Finished(Part):
    """A part that was judged: how it came out, its case as code, how long it took, and where a failure begins."""

    outcome: Outcome
    example: str
    seconds: float
    begins: str = ""


class LongReport(msgspec.Struct, frozen=True):
    """All parts of a run, in their order."""

    target: str
    finished: tuple[Finished, ...]
    seconds: float
    schema: int = 1

    @property
    def failed(self) -> bool:
        """Whether any part found something wrong."""
        return any(part.outcome.failed for part in self.finished)


def run_lengths(
    session: Session,
    lengths: Sequence[int],
    *,
    world_size: int,
    seed: int = 0,
    patience: float | None = None,
    say: Callable[[str], None] = lambda line: None,
    kept: Sequence[Finished] = (),
    keep: Callable[[Sequence[Finished]], None] = lambda finished: None,
) -> LongReport:
    """Judge a target at these lengths.

    ``say`` gets the lines of progress, what is expected first. ``kept`` are parts that an earlier run has finished;
    ``keep`` gets all that are finished after each one. Raises TargetError for a target that takes no such world.
    """
    if (least := session.target.least_ranks) > world_size:
        raise TargetError(f"target {session.source} needs at least {least} ranks, not {world_size}")
    if session.target.queries == "replicated":
        raise TargetError(f"target {session.source} takes replicated queries, which long lengths are not judged with")
    start = time.monotonic()
    cases = cases_of(session.target, world_size, seed)
    parts = [Part(n, name, step) for n in sorted(set(lengths)) for name in cases for step in STEPS]
    done = {str(part): part for part in kept}
    left = [part for part in parts if str(part) not in done]
    expected = _expected(session, left, cases, seed, say)
    if done:
        say(f"{len(parts) - len(left)} of {len(parts)} parts were finished by an earlier run")
    for number, part in enumerate(left):
        rest = sum(expected[str(one)] for one in left[number:])
        say(f"part {number + 1} of {len(left)}: {part}; about {rest:.0f} s left")
        began = time.monotonic()
        allowed = max(_LEAST_SECONDS, _TIMES * expected[str(part)]) if patience is None else patience

        def at(length: int, part: Part = part, allowed: float = allowed) -> Outcome:
            return examine(session, cases[part.case](length), part.step, seed=seed, seconds=allowed)

        outcome = at(part.length)
        begins = ""
        if outcome.failed:
            say(f"  {outcome.verdict}: {outcome.lines[0]}; looking for the shortest length that fails")
            begins = shortest_failure(lambda length: at(length).failed, part.length).words()
        spent = time.monotonic() - began
        example = repr(cases[part.case](part.length))
        done[str(part)] = Finished(part.length, part.case, part.step, outcome, example, spent, begins)
        keep([done[str(one)] for one in parts if str(one) in done])
    return LongReport(session.source.address, tuple(done[str(part)] for part in parts), time.monotonic() - start)


def _expected(
    session: Session, left: Sequence[Part], cases: dict[str, Callable], seed: int, say: Callable[[str], None]
) -> dict[str, float]:
    """Seconds that each part is expected to take; time and memory are said before anything long begins."""
    found: dict[str, float] = {}
    for name in {part.case for part in left}:
        measured = rates(session, cases[name](SHORT))
        for part in left:
            if part.case == name:
                found[str(part)] = measured.seconds(session, cases[name](part.length), part.step, seed)
    for length in sorted({part.length for part in left}):
        seconds = sum(found[str(part)] for part in left if part.length == length)
        held = max(bytes_of_a_rank(cases[part.case](length)) for part in left if part.length == length)
        say(
            f"length {length}: about {seconds:.0f} s, and {in_words(held)} on each rank for inputs and results, "
            "besides what the target itself needs"
        )
    return found
