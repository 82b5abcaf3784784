"""A controller that is killed takes everything with it: ranks, their children, and those that tried to get away."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attention_gate.verify.rank.process_table import MARK, table
from attention_gate.verify.world import fork_client as kept
from tests.verify.hostile.judging import TARGETS

GATE = """
import sys
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.target.layouts import contiguous
from attention_gate.verify.target.source import parse_source
from attention_gate.verify.world.local import LocalWorld
from attention_gate.verify.rank.jobs import Job
import attention_gate.verify.world.patience as pace

pace.BUSY = pace.RESTING = 1000.0
with LocalWorld(2) as world:
    world.start()
    print("started", flush=True)
    case = Case(world_size=2, length=2, segment_lengths=(2,))
    positions = Positions.as_many([contiguous(0, 2, 2), contiguous(1, 2, 2)])
    world.submit(Job("attend", parse_source(sys.argv[1]), (case,), (positions,)))
    print("running", flush=True)
    world.collect()
"""


def _marked(gate: int) -> list[int]:
    """What bears the mark of that gate's keeper, and zombies apart lives."""
    found = []
    for process in table():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes()
        except OSError:
            continue
        if process.state != "Z" and f"{MARK}={gate}-".encode() in environment:
            found.append(process.pid)
    return found


@pytest.mark.parametrize(
    ("target", "number"),
    [
        ("hangs.py:loops_in_c", signal.SIGKILL),
        ("hangs.py:loops_beside_a_daemon", signal.SIGKILL),
        ("hangs.py:stops_itself", signal.SIGINT),
    ],
)
def test_nothing_outlives_the_gate(target, number):
    gate = subprocess.Popen(
        [sys.executable, "-c", GATE, f"{TARGETS}/{target}"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert gate.stdout is not None
    assert gate.stdout.readline() == b"started\n"
    assert gate.stdout.readline() == b"running\n"
    time.sleep(0.3)
    if gate.poll() is None:
        assert len(_marked(gate.pid)) >= 3
        gate.send_signal(number)
    gate.wait(timeout=20)
    gate.stdout.close()
    until = time.monotonic() + 10
    while (left := _marked(gate.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    assert left == []


def test_the_keeper_ends_when_it_is_closed_and_another_one_starts():
    first = kept.keeper()
    assert first.alive
    kept.shut_down()
    assert not first.alive
    second = kept.keeper()
    assert second is not first
    assert second.alive
    assert second is kept.keeper()
    assert os.getpgid(second._process.pid) == second._process.pid  # Ctrl-C in a terminal does not reach it
