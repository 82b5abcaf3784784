"""When to give up waiting: a world that has come to rest is told from one that is busy by the CPU time it uses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass

_TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


@dataclass
class Pace:
    """Limits that follow from how long this world's runs have taken so far.

    A world rests when no unfinished rank has used any CPU time for ``resting`` seconds: nothing will ever happen in
    it. A busy world (an endless loop) is given up after ``busy`` seconds. Both grow with the slowest run seen.
    """

    device: str = "cpu"
    hurried: bool = False
    slowest: float = 0.0

    def saw(self, seconds: float) -> None:
        """Take note of a run that ended by itself."""
        self.slowest = max(self.slowest, seconds)

    @property
    def resting(self) -> float:
        """Seconds without any progress that make a hang."""
        floor = 0.6 if self.hurried else 3.0
        return max(floor, 5 * self.slowest)

    @property
    def busy(self) -> float:
        """Seconds of work without an end that make a hang."""
        floor = 60.0 if self.device == "cuda" else 3.0 if self.hurried else 8.0
        return max(floor, 20 * self.slowest)

    #: Seconds that the other ranks are given to end by themselves once one has failed.
    after_failure = 0.25


class Activity:
    """Watches the CPU time of some processes; knows for how long they have been at rest."""

    def __init__(self) -> None:
        self._used: dict[int, int] = {}
        self._since = time.monotonic()

    def rest(self, pids: Iterable[int]) -> float:
        """Seconds since any of these processes was last seen to have used CPU time."""
        now = time.monotonic()
        for pid in pids:
            used = _cpu_ticks(pid)
            if used is None or used != self._used.get(pid):
                self._since = now
            if used is not None:
                self._used[pid] = used
        return now - self._since


def _cpu_ticks(pid: int) -> int | None:
    """CPU time that the process has used, in clock ticks; None where the system does not tell."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return int(fields[11]) + int(fields[12])
