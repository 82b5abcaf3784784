"""The report as JSON has it: the fields of these classes are its schema, which report.schema.json publishes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from attention_gate.verify.checks.strength import Strength
from attention_gate.verify.judge.measurements import Measured

SCHEMA: Literal[1] = 1

Outcome = Literal["pass", "fail", "crash", "hang", "unsupported", "blocked", "not run", "known", "stale"]


@dataclass(frozen=True)
class HistoryEntry:
    """A call before a failure that is part of it. ``example`` is the repr of its case."""

    check: str
    example: str
    parameters: dict[str, Any]


@dataclass(frozen=True)
class FailureEntry:
    """What failed. ``example`` is the repr of the minimal case; ``repeated`` how often it failed, of how many times."""

    message: str
    example: str
    parameters: dict[str, Any]
    repeated: tuple[int, int]
    history: tuple[HistoryEntry, ...]
    steadiness: str
    explanation: tuple[str, ...]
    replay: str | None


@dataclass(frozen=True)
class CheckEntry:
    """One check. ``worst`` is the largest share of an error budget that was used, null if there is none.

    ``remark`` is an additional measurement, which does not count against the target; ``measured`` has all of them by
    number of ranks.
    """

    name: str
    promise: str
    verdict: Outcome
    examples: int
    seconds: float
    worst: float | None
    reason: str
    failure: FailureEntry | None
    remark: str = ""
    measured: Measured = field(default_factory=Measured)


@dataclass(frozen=True)
class CoverageEntry:
    """Pairs of options that can occur together, and how many of them occurred."""

    pairs: int
    covered: int


@dataclass(frozen=True)
class ReportDocument:
    """The whole report, schema 1."""

    schema: Literal[1]
    target: str
    verdict: Literal["pass", "fail", "incomplete", "error"]
    seconds: float
    checks: tuple[CheckEntry, ...]
    unsupported: tuple[str, ...]
    environment: dict[str, str]
    profile: str
    seed: int
    world_sizes: tuple[int, ...]
    examples: int
    coverage: CoverageEntry
    strength: Strength | None
    error: str | None
    notes: tuple[str, ...]
