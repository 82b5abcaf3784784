"""Interrupt the gate at random moments: Ctrl-C once or twice, SIGTERM, SIGKILL; count what is left of it.

python benchmarks/interruptions.py --times 50
"""

from __future__ import annotations

import argparse
import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from attention_gate.verify.rank.process_table import MARK, table

TARGETS = ("impls.robust:attend", "tests/verify/hostile/targets/hangs.py:loops_in_c")
WAYS = ("Ctrl-C", "Ctrl-C twice", "SIGTERM", "SIGKILL")
GONE_SECONDS = 10.0


def main() -> int:
    """Print a line for each interruption and the sum; 1 if anything was left, or a traceback printed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    statuses: collections.Counter[str] = collections.Counter()
    left = tracebacks = 0
    for number in range(options.times):
        way, target = WAYS[number % len(WAYS)], TARGETS[number % 3 == 2]
        after = chance.uniform(0.3, 12.0)
        with tempfile.TemporaryDirectory() as folder:
            status, said, processes, files, seconds = interrupt(way, target, after, folder, chance)
        statuses[f"{way}: {status}"] += 1
        left += len(processes) + len(files)
        tracebacks += "Traceback" in said
        print(
            f"{number + 1:3} {way:<12} after {after:4.1f} s: status {status}, gone in {seconds:.1f} s, "
            f"processes left {processes}, files left {files}",
            flush=True,
        )
        if "Traceback" in said:
            print(said)
    print(f"{options.times} interruptions, {left} processes and files left, {tracebacks} tracebacks; {dict(statuses)}")
    return int(bool(left or tracebacks))


def interrupt(
    way: str, target: str, after: float, folder: str, chance: random.Random
) -> tuple[int, str, list[int], list[str], float]:
    """Start the gate and end it: exit status, standard error, processes and files left, seconds until all was gone."""
    (cwd := Path(folder) / "cwd").mkdir()
    (temporary := Path(folder) / "tmp").mkdir()
    path, colon, name = target.rpartition(":")
    place = str(Path(path).resolve()) if path.endswith(".py") else path
    environment = os.environ | {"TMPDIR": str(temporary), "PYTHONPATH": os.pathsep.join(["", os.getcwd()]).strip(":")}
    shared = set(os.listdir("/dev/shm"))
    gate = subprocess.Popen(
        [sys.executable, "-m", "attention_gate", "gate", f"{place}{colon}{name}", "--profile", "quick"],
        cwd=cwd,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    time.sleep(after)
    for number, pause in signals(way, chance):
        time.sleep(pause)
        gate.send_signal(number)
    start = time.monotonic()
    _, said = gate.communicate(timeout=60)
    while (processes := descendants(gate.pid)) and time.monotonic() - start < GONE_SECONDS:
        time.sleep(0.05)
    seconds = time.monotonic() - start
    mine = {name for name in set(os.listdir("/dev/shm")) - shared if str(gate.pid) in name}
    kept = [name for name in os.listdir(cwd) if name != "attention-gate-failures"]
    return gate.returncode, said, processes, sorted([*kept, *os.listdir(temporary), *mine]), seconds


def signals(way: str, chance: random.Random) -> list[tuple[int, float]]:
    """The signals of a way to interrupt, each after a pause in seconds."""
    if way == "Ctrl-C twice":
        return [(signal.SIGINT, 0.0), (signal.SIGINT, chance.uniform(0.0, 0.3))]
    return [({"Ctrl-C": signal.SIGINT, "SIGTERM": signal.SIGTERM, "SIGKILL": signal.SIGKILL}[way], 0.0)]


def descendants(gate: int) -> list[int]:
    """Processes that bear that gate's mark, as its keeper and all that descends from it do."""
    mark = f"{MARK}={gate}-".encode()
    found = []
    for process in table():
        try:
            if process.state != "Z" and mark in Path(f"/proc/{process.pid}/environ").read_bytes():
                found.append(process.pid)
        except OSError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
