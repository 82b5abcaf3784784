"""Time limits: they distinguish an idle world, a busy world, and one that waits for CPU time.

>>> Patience().limits(first=True)
Limits(resting=3.0, busy=60.0, what='the first call')
>>> Patience(seconds=40.0).limits()
Limits(resting=15.0, busy=40.0, what='a call')
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_TICK = 1.0 / (os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100)

#: Seconds of rest, and of work, that make a hang at the least; and when many hangs in a row are likely.
RESTING, RESTING_HURRIED = 3.0, 0.6
BUSY, BUSY_HURRIED, BUSY_CUDA = 8.0, 3.0, 60.0

#: Seconds of work that the first call of a process may take, in which a target may compile or try out kernels; how much
#: more once it is known how long first calls take here.
FIRST, FIRST_CUDA, _FIRST_AGAIN = 60.0, 120.0, 2.0

#: A process that uses the processor for a smaller part of the time is at rest: a loop that sleeps, a timer. One that
#: waits for the processor most of the time works; a timer on a busy machine waits too, but only for a small part of it.
_AT_REST, _STARVED = 0.03, 0.5

#: A world that waits for processors that others use is given at most this many times the patience.
_STRETCH = 4.0

#: What passed between two looks counts for no more: the gate itself was kept waiting, or stopped by Ctrl-Z.
_LONGEST_LOOK = 0.5

#: A world that keeps starting processes, as compilers do, is given this many seconds.
_BUILD_SECONDS = 120.0


@dataclass
class Patience:
    """Limits that follow from how long this world's runs have taken so far.

    A world rests when no unfinished rank, nor anything it started, has used or wanted a processor for ``resting``
    seconds: nothing will ever happen in it. A busy world (an endless loop) is given up after ``busy`` seconds, in
    which the time that it had to wait for a processor does not count. Both grow with the slowest run seen. The first
    call of a process has its own limit of work. ``seconds`` is what a user grants a busy world instead of
    `BUSY`; all limits are stretched by as much.
    """

    device: str = "cpu"
    hurried: bool = False
    slowest: float = 0.0
    slowest_first: float | None = None
    seconds: float | None = None
    first_ends: bool = True

    @contextlib.contextmanager
    def in_a_hurry(self) -> Iterator[None]:
        """Context manager: shorter limits inside."""
        before, self.hurried = self.hurried, True
        try:
            yield
        finally:
            self.hurried = before

    def saw(self, seconds: float, *, first: bool = False) -> None:
        """Take note of a run that ended by itself; ``first``: in a process that had run nothing before."""
        if first:
            self.slowest_first = max(self.slowest_first or 0.0, seconds)
        else:
            self.slowest = max(self.slowest, seconds)

    def gave_up(self, *, first: bool) -> None:
        """Take note of a run that did not end: a first call that was given its long limit is not given it again."""
        self.first_ends = self.first_ends and not first

    @property
    def stretch(self) -> float:
        """By how much all limits are longer than usual."""
        return 1.0 if self.seconds is None else self.seconds / BUSY

    @property
    def resting(self) -> float:
        """Seconds without any progress that make a hang."""
        floor = RESTING_HURRIED if self.hurried else RESTING
        return max(floor * self.stretch, min(5 * self.slowest, self.slowest + 10))

    @property
    def busy(self) -> float:
        """Seconds of work without an end that make a hang."""
        floor = BUSY_CUDA if self.device == "cuda" else BUSY_HURRIED if self.hurried else BUSY
        return max(floor * self.stretch, min(20 * self.slowest, 2 * self.slowest + 30))

    @property
    def busy_at_first(self) -> float:
        """The same of the first call of a process: long until it is known how long it takes, then as it took."""
        if self.slowest_first is not None:
            return max(self.busy, _FIRST_AGAIN * self.slowest_first)
        if self.hurried or not self.first_ends:  # a failure is known: what is asked now is whether it is one again
            return self.busy
        return max(self.busy, (FIRST_CUDA if self.device == "cuda" else FIRST) * self.stretch)

    def limits(self, *, first: bool = False) -> Limits:
        """The limits of the next call."""
        return Limits(self.resting, self.busy_at_first if first else self.busy, "the first call" if first else "a call")

    #: Seconds that the other ranks are given to end by themselves once one has failed.
    after_failure = 0.25


@dataclass(frozen=True)
class Limits:
    """How long a run may rest and how long it may work, and what it is, in words."""

    resting: float
    busy: float
    what: str = "a call"

    def passed(self, activity: Activity) -> str:
        """Which of them the activity is beyond, in words; empty if none."""
        return self.passed_by(activity.resting, activity.working)

    def passed_by(self, resting: float, working: float) -> str:
        """The same for these seconds of rest and of work."""
        if resting > self.resting:
            return f"at rest for {self.resting:.1f} s, the limit of {self.what}"
        if working > self.busy:
            return f"at work for {self.busy:.1f} s, the limit of {self.what}"
        return ""


@dataclass
class _Seen:
    """What a process had used by the last look: seconds on a processor, seconds of waiting for one."""

    used: float
    waited: float


@dataclass
class Activity:
    """Watches some processes and all that they have started; knows since when they rest and how long they have worked.

    >>> activity = Activity()
    >>> activity.look([pid, other])  # again and again
    >>> activity.resting, activity.working
    """

    resting: float = 0.0
    working: float = 0.0
    _seen: dict[int, _Seen] = field(default_factory=dict)
    _looked: float = field(default_factory=time.monotonic)
    _began: float = field(default_factory=time.monotonic)
    _known: set[int] | None = None

    def look(self, pids: Iterable[int]) -> None:
        """Take note of what the processes have done since the last look."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LONGEST_LOOK), now
        pids = list(pids)
        family = _with_descendants(pids)
        used = starved = 0.0
        for pid in family:
            seen, before = _used_and_waited(pid), self._seen.get(pid)
            if seen is None:
                used = passed  # the system does not say: as if it worked
                continue
            if before is not None:
                used = max(used, seen.used - before.used)
                starved = max(starved, min(seen.waited - before.waited, passed))
            else:
                used = passed
            self._seen[pid] = seen
        works = used > _AT_REST * passed or starved > _STARVED * passed
        self.resting = 0.0 if works else self.resting + passed
        self.working += max(passed - starved, passed / _STRETCH)
        if self._starts(family - set(pids)) and now - self._began < _BUILD_SECONDS:
            self.working = 0.0

    def rest(self, pids: Iterable[int]) -> float:
        """Look, and say for how long they have been at rest."""
        self.look(pids)
        return self.resting

    def _starts(self, started: set[int]) -> bool:
        """Whether there is a process that was not there at the last look, nor at the first."""
        new = self._known is not None and not started <= self._known
        self._known = started | (self._known or set())
        return new


def _with_descendants(pids: Iterable[int]) -> set[int]:
    found: set[int] = set()
    ahead = list(pids)
    while ahead:
        pid = ahead.pop()
        if pid in found:
            continue
        found.add(pid)
        try:
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/children") as file:
                    ahead += map(int, file.read().split())
        except (OSError, ValueError):
            continue
    return found


def _used_and_waited(pid: int) -> _Seen | None:
    """Processor time used and waited for by all threads, in seconds; None where the system does not tell."""
    used = waited = 0.0
    found = False
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            try:
                with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                    ran, queued, _ = map(int, file.read().split())
            except (OSError, ValueError):
                continue
            used, waited, found = used + ran / 1e9, waited + queued / 1e9, True
    except OSError:
        return None
    return _Seen(used, waited) if found else _by_ticks(pid)


def _by_ticks(pid: int) -> _Seen | None:
    """The same where the kernel keeps no account of waiting: in clock ticks, a thread that could run has waited."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
    except OSError:
        return None
    return _Seen((int(fields[11]) + int(fields[12])) * _TICK, 0.0)
