"""The result of a run as data: every check's outcome, the verdict they add up to, and what it rests on."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, cast

from attention_gate.verify.checks.results import CheckResult, Failure
from attention_gate.verify.checks.strength import MEASURED_WORLD_SIZES, Strength, strength
from attention_gate.verify.run.report_document import (
    SCHEMA,
    CheckEntry,
    CoverageEntry,
    FailureEntry,
    HistoryEntry,
    ReportDocument,
)
from attention_gate.verify.target.source import near
from attention_gate.verify.target.target import Target


@dataclass(frozen=True)
class Coverage:
    """Pairs of discrete options: how many can occur together in the checks that ran, and how many did.

    ``options`` are the names of the options; ``missing`` has pairs that did not occur, in words.
    """

    pairs: int
    covered: int
    options: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """The verdict on a target, and all that it rests on.

    ``target`` is its address with the whole path of a file, so that it can be loaded in any folder.
    ``verdict`` is "pass" (every check that the target supports ran and passed), "fail", "incomplete" (a check did not
    run) or "error" (the harness itself failed; ``error`` says how). ``notes`` tell what else a reader should know;
    ``declared`` is the target with its limits.
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
    declared: Target | None = None

    @property
    def shown(self) -> str:
        """The target as a message shows it: a file as a user in the current folder would type it."""
        return near(self.target)

    @property
    def dense(self) -> bool:
        """Whether the target takes the dense branch alone, so that a case's branches need not be shown."""
        return self.declared is not None and self.declared.branches == "dense"

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
        """The known mistakes that a run like this one catches; None for other numbers of ranks than measured."""
        if not set(MEASURED_WORLD_SIZES) <= set(self.world_sizes):
            return None
        passed = [check.name for check in self.checks if check.outcome == "pass"]
        return strength(self.profile, passed, self.declared)

    @property
    def exit_status(self) -> int:
        """0 conforms, 1 does not, 3 not finished or the harness failed."""
        return {"pass": 0, "fail": 1}.get(self.verdict, 3)

    def document(self) -> ReportDocument:
        """The report as its schema describes it."""
        return ReportDocument(
            schema=SCHEMA,
            target=self.target,
            verdict=cast(Any, self.verdict),
            seconds=round(self.seconds, 3),
            checks=tuple(_entry(check) for check in self.checks),
            unsupported=self.unsupported,
            environment=self.environment,
            profile=self.profile,
            seed=self.seed,
            world_sizes=self.world_sizes,
            examples=self.examples,
            coverage=CoverageEntry(self.coverage.pairs, self.coverage.covered),
            strength=self.strength,
            error=self.error,
            notes=self.notes,
        )

    def to_json(self) -> dict[str, Any]:
        """Plain data, by the published schema: what ``json.dumps`` takes."""
        return dataclasses.asdict(self.document())


def _entry(check: CheckResult) -> CheckEntry:
    failure = check.failure
    return CheckEntry(
        name=check.name,
        promise=check.promise,
        verdict=cast(Any, check.outcome),
        examples=check.examples,
        seconds=round(check.seconds, 3),
        worst=check.budget_used if check.budget_used is not None and math.isfinite(check.budget_used) else None,
        reason=check.reason,
        remark=check.remark,
        measured=check.measured,
        failure=None if failure is None else _failure_entry(failure),
    )


def _failure_entry(failure: Failure) -> FailureEntry:
    return FailureEntry(
        message=failure.message,
        example=repr(failure.example.case),
        parameters=failure.example.parameters,
        repeated=failure.repeated,
        history=tuple(HistoryEntry(one.check, repr(one.case), one.parameters) for one in failure.history),
        steadiness=failure.steadiness,
        explanation=failure.explanation,
        replay=failure.replay,
    )


def verdict_of(checks: tuple[CheckResult, ...]) -> str:
    """The verdict that the checks' outcomes add up to: a check that silently did not run is never a pass."""
    outcomes = {check.outcome for check in checks}
    if outcomes & {"fail", "crash", "hang", "stale"}:
        return "fail"
    if "not run" in outcomes or "blocked" in outcomes or "pass" not in outcomes:
        return "incomplete"
    return "pass"
