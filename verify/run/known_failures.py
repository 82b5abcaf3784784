"""Known failures: what a check's result amounts to, given what the target says that it is known to fail."""

from __future__ import annotations

from dataclasses import replace

from attention_gate.verify.checks.results import CheckResult
from attention_gate.verify.target.target import Target

_FAILED = ("fail", "crash", "hang")


def with_known_failures(result: CheckResult, target: Target) -> CheckResult:
    """The result as it counts: "known" for a failure that is accepted, "stale" for an entry that no longer holds."""
    entry = next((entry for entry in target.known_failures if entry.check == result.name), None)
    if entry is None:
        return result
    if result.outcome == "pass":
        return _stale(result, f"it passes, but is listed in known_failures: {entry.words}; remove the entry")
    if result.outcome == "unsupported":
        words = f"it is not tried ({result.reason}), but is listed in known_failures: {entry.words}; remove the entry"
        return _stale(result, words)
    if result.outcome not in _FAILED:
        return result
    assert result.failure is not None
    if entry.expired():
        finding = result.failure.finding
        detailed = replace(finding, details=(f"its entry in known_failures expired: {entry.words}", *finding.details))
        return replace(result, failure=replace(result.failure, finding=detailed))
    reason = f"{entry.words}; seen: {result.failure.finding.headline}"
    return replace(result, outcome="known", failure=None, reason=reason)


def _stale(result: CheckResult, reason: str) -> CheckResult:
    return replace(result, outcome="stale", failure=None, reason=reason)
