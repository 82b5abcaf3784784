"""The calls before a failure that are part of it: found again in fresh processes, and made few and small."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.check import Parameters
from attention_gate.verify.checks.results import Example
from attention_gate.verify.judge.session import Session
from attention_gate.verify.run.minimal import Reduction
from attention_gate.verify.run.repetition import examine
from attention_gate.verify.world.finding import Finding

#: Seconds that the search for the calls before may take, and then making them few and small.
SECONDS = 20.0
_SMALLER_SECONDS = 15.0

#: How often in a row the calls found must lead to the failure.
CONFIRMED = 2


def before(session: Session, example: Example, finding: Finding) -> tuple[Example, ...]:
    """The fewest earlier examples after which the example fails as found, in fresh processes; none if none is found."""
    made = _relevant([Example(*call) for call in session.examined], example)
    search = _History(session, example, finding, time.monotonic() + SECONDS)
    count = 1
    while made and not search.leads(made[-count:]):
        if count >= len(made) or search.over:
            return ()
        count *= 2
    search.until = time.monotonic() + _SMALLER_SECONDS
    history = search.smaller(search.fewer(made[-count:]))
    search.until = None
    return tuple(history) if history and all(search.leads(history) for _ in range(CONFIRMED)) else ()


def examine_after(session: Session, history: Sequence[Example], example: Example) -> Finding | None:
    """The finding in an example that is examined after others, in processes that have made no other call."""
    session.renew()
    for one in history:
        examine(session, one)
    return examine(session, example)


def _relevant(made: list[Example], example: Example) -> list[Example]:
    """Of the examples before the first time that this one was tried: those that may have run in the same processes."""
    earlier = made[: made.index(example)] if example in made else made
    size = example.case.world_size
    return [one for one in earlier if "world-sizes" in (one.check, example.check) or one.case.world_size == size]


class _History:
    def __init__(self, session: Session, example: Example, finding: Finding, until: float | None) -> None:
        self._session = session
        self._example = example
        self._mark = finding.outcome, finding.tensor
        self.until = until

    @property
    def over(self) -> bool:
        """Whether there is no time left."""
        return self.until is not None and time.monotonic() > self.until

    def leads(self, history: Sequence[Example]) -> bool:
        """Whether the example fails as it did, after those and no other calls."""
        with self._session.worlds.hurried():
            finding = examine_after(self._session, history, self._example)
        return finding is not None and (finding.outcome, finding.tensor) == self._mark

    def fewer(self, history: list[Example]) -> list[Example]:
        """Without the calls that it fails without, larger parts first."""
        part = max(1, len(history) // 2)
        while True:
            start = 0
            while start < len(history) and len(history) > 1 and not self.over:
                rest = history[:start] + history[start + part :]
                if rest and self.leads(rest):
                    history = rest
                else:
                    start += part
            if part == 1:
                return history
            part //= 2

    def smaller(self, history: list[Example]) -> list[Example]:
        """With each call as simple as it fails with."""
        for k, one in enumerate(history):

            def fails(case: Case, parameters: Parameters, k: int = k, one: Example = one) -> bool | None:
                if self.over:
                    return None
                return self.leads([*history[:k], Example(one.check, case, parameters), *history[k + 1 :]])

            check = BY_NAME[one.check]
            axes = check.space(self._session.target, self._session.world_sizes)
            reduction = Reduction(fails, axes, partial(check.fitted, self._session), one.parameters)
            case, parameters = reduction.minimal(one.case, one.parameters)
            history[k] = Example(one.check, case, parameters)
        return history
