"""What a judgement amounts to, as data: every check's outcome, what failed and how to see it again."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from verify.case import Case
from verify.findings import Finding
from verify.strength import MEASURED_WORLD_SIZES, Strength, strength

SCHEMA = 1

#: Outcomes of a check. "blocked": a check that it builds on failed. "not run": the judgement ended before it. "known":
#: a failure that the target lists as known. "stale": an entry of that list that no longer holds, which is a failure.
OUTCOMES = ("pass", "fail", "crash", "hang", "unsupported", "blocked", "not run", "known", "stale")


@dataclass(frozen=True)
class Example:
    """One example of a check: its case, and what it has besides; enough to run it again."""

    check: str
    case: Case
    detail: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Failure:
    """A check's failure: what was found in the minimal example, and how often that example failed when repeated.

    ``explanation`` names the known mistakes whose formula the output matches; ``replay`` is the saved file's path;
    ``steadiness`` says in words what repeating it showed.
    """

    finding: Finding
    example: Example
    repeated: tuple[int, int]
    explanation: tuple[str, ...] = ()
    replay: str | None = None
    steadiness: str = ""

    @property
    def message(self) -> str:
        """The whole finding as text."""
        return "\n".join([self.finding.headline, *self.finding.details, *self.explanation])


@dataclass(frozen=True)
class CheckResult:
    """How one check came out. ``worst`` is the largest share of an error budget that was used."""

    name: str
    promise: str
    outcome: str
    examples: int
    seconds: float
    worst: float | None = None
    failure: Failure | None = None
    reason: str = ""


@dataclass(frozen=True)
class Coverage:
    """Pairs of discrete options: how many can occur together in the checks that ran, and how many did."""

    pairs: int
    covered: int


@dataclass(frozen=True)
class Report:
    """The verdict on a target, and all that it rests on.

    ``verdict`` is "pass" (every check that the target supports ran and passed), "fail", "incomplete" (a check did not
    run) or "error" (the harness itself failed; ``error`` says how). ``notes`` tell what else a reader should know.
    """

    target: str
    verdict: str
    seconds: float
    checks: tuple[CheckResult, ...]
    unsupported: tuple[str, ...]
    environment: dict[str, str]
    profile: str
    seed: int
    world_sizes: tuple[int, ...]
    coverage: Coverage
    error: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def examples(self) -> int:
        """Examples judged, over all checks."""
        return sum(check.examples for check in self.checks)

    @property
    def ran(self) -> int:
        """Checks that ran."""
        return sum(check.outcome in ("pass", "fail", "crash", "hang", "known") for check in self.checks)

    @property
    def strength(self) -> Strength | None:
        """The known mistakes that a judgement like this one catches; None for other numbers of ranks than measured."""
        if not set(MEASURED_WORLD_SIZES) <= set(self.world_sizes):
            return None
        return strength(self.profile, [check.name for check in self.checks if check.outcome == "pass"])

    @property
    def exit_status(self) -> int:
        """0 conforms, 1 does not, 3 not finished or the harness failed."""
        return {"pass": 0, "fail": 1}.get(self.verdict, 3)

    def to_json(self) -> dict[str, Any]:
        """Plain data, by the published schema."""
        return {
            "schema": SCHEMA,
            "target": self.target,
            "verdict": self.verdict,
            "seconds": round(self.seconds, 3),
            "checks": [_check_json(check) for check in self.checks],
            "unsupported": list(self.unsupported),
            "environment": self.environment,
            "profile": self.profile,
            "seed": self.seed,
            "world_sizes": list(self.world_sizes),
            "examples": self.examples,
            "coverage": {"pairs": self.coverage.pairs, "covered": self.coverage.covered},
            "strength": None if self.strength is None else dataclasses.asdict(self.strength),
            "error": self.error,
            "notes": list(self.notes),
        }


def _check_json(check: CheckResult) -> dict[str, Any]:
    failure = check.failure
    return {
        "name": check.name,
        "promise": check.promise,
        "verdict": check.outcome,
        "examples": check.examples,
        "seconds": round(check.seconds, 3),
        "worst": check.worst if check.worst is None or check.worst < float("inf") else None,
        "reason": check.reason,
        "failure": None
        if failure is None
        else {
            "message": failure.message,
            "example": repr(failure.example.case),
            "detail": failure.example.detail,
            "repeated": list(failure.repeated),
            "steadiness": failure.steadiness,
            "explanation": list(failure.explanation),
            "replay": failure.replay,
        },
    }


def verdict_of(checks: tuple[CheckResult, ...]) -> str:
    """The verdict that the checks' outcomes add up to: a check that silently did not run is never a pass."""
    outcomes = {check.outcome for check in checks}
    if outcomes & {"fail", "crash", "hang", "stale"}:
        return "fail"
    if "not run" in outcomes or "blocked" in outcomes or "pass" not in outcomes:
        return "incomplete"
    return "pass"
