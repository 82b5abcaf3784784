"""Judging a hostile target, and what is left on the machine afterwards."""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import attention_gate
from attention_gate.verify.rank.process_table import table
from attention_gate.verify.report.text import text
from attention_gate.verify.world import fork_client as kept
from tests.verify.hostile.table import Hostile

TARGETS = Path(__file__).parent / "targets"


@dataclass(frozen=True)
class Judged:
    """How it came out: the outcome, the whole text, how long it took, and what was left."""

    outcome: str
    text: str
    seconds: float
    processes: list[int]
    files: list[str]
    descriptors: int


def judge(hostile: Hostile) -> Judged:
    """Judge the target in this process, in few examples."""
    keeper = kept.keeper()
    before, others = _descriptors(), set(_left(keeper))  # the worlds of other tests in this process are no leftovers
    start = time.monotonic()
    try:
        report = attention_gate.check(
            f"{TARGETS}/{hostile.target}", profile="quick", checks=(hostile.check,), world_sizes=hostile.sizes
        )
    except attention_gate.TargetError as error:
        outcome, reported = "cannot", str(error)
        assert "\n" not in reported
    else:
        outcome, reported = report.checks[0].outcome, text(report)
    seconds = time.monotonic() - start
    files = sorted(os.listdir(tempfile.gettempdir()) + os.listdir())
    return Judged(outcome, reported, seconds, sorted(set(_left(keeper)) - others), files, _descriptors() - before)


def _left(keeper: kept.ForkServer) -> list[int]:
    """Processes that descend from this one or from the keeper, but for the keeper itself."""
    assert keeper._process is not None
    spared = {keeper._process.pid}
    if kept._shared is not None and kept._shared._process is not None:
        spared.add(kept._shared._process.pid)
    alive = [process for process in table() if process.state != "Z"]
    found = {os.getpid(), *spared}
    while more := {process.pid for process in alive if process.parent in found} - found:
        found |= more
    return sorted(found - spared - {os.getpid()})


def _descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))
