"""Reports for tests, of every outcome that a check can have."""

from attention_gate.verify.checks.results import CheckResult, Example, Failure
from attention_gate.verify.run.judgement import Coverage, Report, verdict_of
from attention_gate.verify.world.finding import Finding
from tests.verify.cases import case_of


def failure_of(headline="the output is wrong", *, outcome="fail", details=(), parameters=None):
    """A failure that says this."""
    example = Example("forward", case_of(), parameters or {})
    return Failure(Finding(outcome, headline, tuple(details)), example, (2, 2), replay="failures/attend-forward.json")


def check_of(name="forward", outcome="pass", **changes):
    """A check's result with that outcome."""
    defaults = {"promise": "returns the oracle's output", "examples": 40, "seconds": 1.25, "budget_used": 0.4}
    if outcome in ("fail", "crash", "hang"):
        defaults |= {"failure": failure_of(outcome=outcome), "budget_used": float("inf")}
    elif outcome != "pass":
        defaults |= {"examples": 0, "seconds": 0.0, "budget_used": None, "reason": f"it is {outcome}"}
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
