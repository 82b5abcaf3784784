"""How a check came out: its outcome, the minimal failing example, and what was found in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.judge.measurements import Measured
from attention_gate.verify.network.trace import Trace
from attention_gate.verify.world.finding import Finding

#: Outcomes of a check. "blocked": a check that it builds on failed. "not run": the run ended before it. "known":
#: a failure that the target lists as known. "stale": an entry of that list that no longer holds, which is a failure.
OUTCOMES = ("pass", "fail", "crash", "hang", "unsupported", "blocked", "not run", "known", "stale")


@dataclass(frozen=True)
class Example:
    """One example: the check, the case and its parameters; enough to run it again."""

    check: str
    case: Case
    parameters: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A check's failure: what was found in the minimal example, and how often that example failed when repeated.

    ``explanation`` names the known mistakes whose formula the output matches; ``replay`` is the saved file's path;
    ``steadiness`` says in words what repeating it showed. ``history`` has the examples before it that are part of what
    failed: in fresh processes it fails after these. ``trace`` is the minimal example's run on the simulated network,
    where there is one; ``positions`` are the rows that each of its ranks has.
    """

    finding: Finding
    example: Example
    repeated: tuple[int, int]
    explanation: tuple[str, ...] = ()
    replay: str | None = None
    steadiness: str = ""
    history: tuple[Example, ...] = ()
    trace: Trace | None = None
    positions: Positions | None = None

    @property
    def message(self) -> str:
        """The whole finding as text."""
        return "\n".join([self.finding.headline, *self.finding.details, *self.explanation])


@dataclass(frozen=True)
class CheckResult:
    """How one check came out. ``budget_used`` is the largest share of an error budget that was used.

    ``remark`` is an additional measurement, which does not count against the target; ``measured`` has all of them.
    """

    name: str
    promise: str
    outcome: str
    examples: int
    seconds: float
    budget_used: float | None = None
    failure: Failure | None = None
    reason: str = ""
    remark: str = ""
    measured: Measured = field(default_factory=Measured)
