"""Find and end every process that a rank started, including daemonised ones."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Container, Iterable
from dataclasses import dataclass
from pathlib import Path

#: In the environment of the fork server and so of every process that descends from it.
MARK = "ATTENTION_GATE_KEEPER"

#: More threads than cores make everything several times slower, and a process that forks should have one.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True)
class Process:
    """A line of the process table."""

    pid: int
    state: str
    parent: int
    session: int


def table() -> list[Process]:
    """All processes that can be seen; empty where there is no /proc."""
    found = []
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc"):
            if name.isdecimal():
                with contextlib.suppress(OSError, ValueError, IndexError):
                    fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()
                    found.append(Process(int(name), fields[0].decode(), int(fields[1]), int(fields[3])))
    return found


def has_ended(pid: int) -> bool:
    """Whether a process has ended, waited for by its parent or not; False where there is no /proc."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] in (b"Z", b"X")
    except OSError:
        return os.path.isdir("/proc/self")


def left_by(ranks: Iterable[int], *, spared: set[int]) -> list[int]:
    """Living processes: the ranks, their sessions and descendants, this process's children, except those in ``spared``.

    The ranks are children of this process that it has not waited for yet.
    """
    doomed = set(ranks)
    here = os.getpid()
    alive = [process for process in table() if process.state != "Z"]
    if not alive:  # no process table: only the ranks are known
        return sorted(doomed)
    found = {process.pid for process in alive if process.session in doomed}
    found |= {process.pid for process in alive if process.parent == here}
    found -= spared
    while more := {process.pid for process in alive if process.parent in found} - found:
        found |= more
    return sorted(found - spared - {here})


def reap(spared: Container[int]) -> None:
    """Wait for those children of this process that have ended, but the spared."""
    here = os.getpid()
    for process in table():
        if process.parent == here and process.state == "Z" and process.pid not in spared:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(process.pid, os.WNOHANG)


def sweep(mark: str) -> None:
    """End every process whose environment has that mark, but this one: what is left when the fork server is gone."""
    wanted = f"{MARK}={mark}".encode()
    for process in table():
        with contextlib.suppress(OSError):
            if process.pid != os.getpid() and wanted in Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0"):
                os.kill(process.pid, signal.SIGKILL)


def die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent ends, however that ends and whatever the target is doing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def adopt_orphans() -> None:
    """Ask Linux to make this process the parent of any descendant that loses its own."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)
