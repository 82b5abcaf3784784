"""Many examples in the same worlds: memory, file descriptors and time per example must not grow.

python benchmarks/endurance.py --world-size 2 --examples 100000 --json endurance-2.json

Every row is one more search of its own seed, as a gate makes one for each check: examples so far, milliseconds and
milliseconds of processor time per example (of the gate and of one rank), MiB resident and descriptors of the gate and
of the rank that has the most. Interrupted, it keeps the rows that it has.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.judge.session import Session
from attention_gate.verify.report.whole_files import write_whole
from attention_gate.verify.run.search import search
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.local import LocalWorld, Worlds

_TICK = 1.0 / os.sysconf("SC_CLK_TCK")


def main() -> int:
    """Print the curve; 1 if an example failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world-size", type=int, default=2)
    parser.add_argument("--examples", type=int, default=100_000)
    parser.add_argument("--every", type=int, default=1000)
    parser.add_argument("--check", default="gradients", choices=tuple(BY_NAME))
    parser.add_argument("--target", default="impls.robust:attend")
    parser.add_argument("--json", metavar="FILE")
    options = parser.parse_args()
    target, source = as_target(options.target)
    rows: list[dict[str, float]] = []
    with Worlds() as worlds:
        session = Session(target, source, worlds, (options.world_size,))
        done = seed = 0
        while done < options.examples:
            before, start = used(worlds[options.world_size]), time.monotonic()
            found = search(BY_NAME[options.check], session, examples=options.every, seed=seed)
            seed += 1
            if found.finding is not None:
                print(f"an example failed: {found.finding.headline}\n{found.example}")
                return 1
            seconds, after = time.monotonic() - start, used(worlds[options.world_size])
            done += found.examples
            rows.append(row(done, found.examples, seconds, before, after))
            print("  ".join(f"{name} {value:g}" for name, value in rows[-1].items()), flush=True)
            if options.json:
                write_whole(options.json, json.dumps({"world_size": options.world_size, "rows": rows}, indent=1) + "\n")
        starts = worlds[options.world_size].starts
    print(f"{done} examples, worlds started {starts} time(s)")
    return 0


def used(world: LocalWorld) -> dict[str, Any]:
    """What the gate and the ranks have used so far."""
    ranks = [member.pid for member in world._members]
    return {
        "gate": time.process_time(),
        "rank": max((processor(pid) for pid in ranks), default=0.0),
        "memory": (resident(os.getpid()), max(map(resident, ranks), default=0.0)),
        "descriptors": (descriptors(os.getpid()), max(map(descriptors, ranks), default=0)),
    }


def row(done: int, count: int, seconds: float, before: dict[str, Any], after: dict[str, Any]) -> dict[str, float]:
    """One point of the curve."""
    return {
        "examples": done,
        "ms": round(1000 * seconds / count, 3),
        "gate_cpu_ms": round(1000 * (after["gate"] - before["gate"]) / count, 3),
        "rank_cpu_ms": round(1000 * (after["rank"] - before["rank"]) / count, 3),
        "gate_MiB": round(after["memory"][0], 1),
        "rank_MiB": round(after["memory"][1], 1),
        "gate_fds": after["descriptors"][0],
        "rank_fds": after["descriptors"][1],
    }


def processor(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) * _TICK


def resident(pid: int) -> float:
    """MiB that a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def descriptors(pid: int) -> int:
    """Open file descriptors of a process."""
    return len(os.listdir(f"/proc/{pid}/fd"))


if __name__ == "__main__":
    sys.exit(main())
