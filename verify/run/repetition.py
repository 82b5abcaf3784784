"""An example tried again, and whether its failure is steady: as the first and as a later call of fresh processes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.results import Example
from attention_gate.verify.judge.session import Session
from attention_gate.verify.world.finding import Finding

_TIMES = 2


@dataclass(frozen=True)
class Repeated:
    """How often the example failed when it was repeated, in words too, and the finding as seen with full patience."""

    failed: int
    times: int
    words: str
    finding: Finding


def examine(session: Session, example: Example) -> Finding | None:
    """Judge one example once."""
    check = BY_NAME[example.check]
    return check.examine(session, check.shaped(session, example.case), example.parameters).finding


def repeat(trial: Callable[[], Finding | None], fresh: Callable[[], None], finding: Finding) -> Repeated:
    """Try the example of a finding again. ``fresh`` replaces the processes that the target runs in.

    A hang is repeated once, since each time costs a deadline.
    """
    fresh()
    seen: list[Finding | None] = []
    for _ in range(_TIMES):
        seen.append(again := trial())
        if again is not None and again.outcome == "hang":
            finding = again
            break
    fails = [again is not None for again in seen]
    return Repeated(sum(fails), len(fails), in_words(fails), finding)


def in_words(fails: list[bool]) -> str:
    """What the repeated calls in fresh processes, in their order, say about the failure."""
    count = f"({sum(fails)} of {len(fails)})"
    if all(fails):
        return f"it failed again in every repetition {count}"
    if not any(fails):
        return (
            f"repeated in fresh processes it did not fail again {count}: the target's answer depends on calls that "
            "were made before, or on timing"
        )
    if not fails[0]:
        return (
            f"in fresh processes the first call is right and a later one fails {count}: the target's answer depends on "
            "earlier calls"
        )
    return (
        f"in fresh processes only the first call failed {count}; later calls were right: the result depends on earlier "
        "calls or on timing"
    )
