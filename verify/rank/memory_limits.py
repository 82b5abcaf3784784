"""Memory: how much this machine has to give, each rank's share of it, and what a rank holds."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

_MIB = 1 << 20

#: What a rank needs to join and to run small examples; most of it is shared with the process that it was forked from.
NEEDED = 96 * _MIB

_PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096
_KEPT_FREE = 0.2


def available() -> int | None:
    """Bytes that may be allocated without swapping, by /proc and by this process's control group; None if unknown."""
    found = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with contextlib.suppress(OSError, ValueError):
        group = Path("/proc/self/cgroup").read_text().strip().rpartition("::")[2]
        folder = Path(f"/sys/fs/cgroup{group}")
        found.append(int((folder / "memory.max").read_text()) - int((folder / "memory.current").read_text()))
    return max(0, min(found)) if found else None


def share(size: int) -> int | None:
    """Bytes that each of that many ranks may allocate; None if this machine does not tell."""
    whole = available()
    return None if whole is None else int(whole * (1 - _KEPT_FREE)) // size


def limit(own_share: int) -> None:
    """Let this process allocate that much more and then fail, so that the machine stays usable.

    The limit is on data (RLIMIT_DATA): address space that is merely reserved, as by threads, does not count.
    """
    import resource

    with contextlib.suppress(OSError, ValueError):
        with open("/proc/self/statm") as file:
            data = int(file.read().split()[5]) * _PAGE
        resource.setrlimit(resource.RLIMIT_DATA, (data + own_share, data + own_share))


def never_dump_core() -> None:
    """A crash leaves no core file behind."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def first_to_go() -> None:
    """Make the out-of-memory killer choose this process first."""
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")


def held(pid: int) -> int:
    """Bytes of memory that only that process holds, resident; 0 if unknown."""
    try:
        with open(f"/proc/{pid}/statm") as file:
            fields = file.read().split()
    except OSError:
        return 0
    return (int(fields[1]) - int(fields[2])) * _PAGE


def in_words(size: int) -> str:
    """ "1.5 GB", "300 MB"."""
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"
