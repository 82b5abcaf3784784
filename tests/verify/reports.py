"""Reports for tests, of every outcome that a check can have."""

from tests.verify.cases import case_of
from verify.findings import Finding
from verify.report import CheckResult, Coverage, Example, Failure, Report, verdict_of


def failure_of(headline="the output is wrong", *, outcome="fail", details=(), detail=None):
    """A failure that says this."""
    example = Example("forward", case_of(), detail or {})
    return Failure(Finding(outcome, headline, tuple(details)), example, (2, 2), replay="failures/attend-forward.json")


def check_of(name="forward", outcome="pass", **changes):
    """A check's result with that outcome."""
    defaults = {"promise": "returns the oracle's output", "examples": 40, "seconds": 1.25, "worst": 0.4}
    if outcome in ("fail", "crash", "hang"):
        defaults |= {"failure": failure_of(outcome=outcome), "worst": float("inf")}
    elif outcome != "pass":
        defaults |= {"examples": 0, "seconds": 0.0, "worst": None, "reason": f"it is {outcome}"}
    return CheckResult(name=name, outcome=outcome, **(defaults | changes))


def report_of(*checks, **changes):
    """A report of these checks."""
    defaults = {
        "target": "my.module:attend",
        "verdict": verdict_of(checks),
        "seconds": 12.5,
        "unsupported": (),
        "environment": {"python": "3.11.7"},
        "profile": "quick",
        "seed": 0,
        "world_sizes": (1, 2, 3, 4),
        "coverage": Coverage(10, 10),
    }
    return Report(checks=checks, **(defaults | changes))
