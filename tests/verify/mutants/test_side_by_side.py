"""Mutants tried by several processes: the same trials, in any order, and no process left."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attention_gate.verify.mutants.side_by_side import Task, tried
from attention_gate.verify.rank.process_table import table
from attention_gate.verify.world.local import WorldError

TASKS = [Task("M12", 0, whole=True), Task("X12", 0), Task("M12", 1, again=True), Task("X12", 1, again=True)]


def descendants(pid: int) -> set[int]:
    """All processes that come from one, zombies apart."""
    found, ahead = set[int](), [pid]
    everything = [process for process in table() if process.state != "Z"]
    while ahead:
        parent = ahead.pop()
        more = {process.pid for process in everything if process.parent == parent} - found
        found |= more
        ahead += more
    return found


def gone(pids: set[int], seconds: float) -> bool:
    """Whether all of these processes end within that time."""
    until = time.monotonic() + seconds
    while pids & {process.pid for process in table() if process.state != "Z"}:
        if time.monotonic() > until:
            return False
        time.sleep(0.05)
    return True


def test_trials_do_not_depend_on_which_process_made_them() -> None:
    before = descendants(os.getpid())
    one, two = (dict(tried(TASKS, profile="standard", device="cpu", jobs=jobs)) for jobs in (1, 2))
    assert set(one) == set(two) == set(TASKS)
    for task, trial in one.items():
        assert (trial.mutant.name, trial.seed, trial.caught) == (task.name, task.seed, True)
        assert (trial.minimal is not None) == task.whole
        assert len(trial.cells) > 5 if task.whole else len(trial.cells) == 1
        assert trial.first.example == two[task].first.example
    assert gone(descendants(os.getpid()) - before, 20.0)


def test_a_process_that_fails_is_an_error_and_the_others_are_ended() -> None:
    before = descendants(os.getpid())
    with pytest.raises(WorldError, match="the process that tried no such mutant has ended"):
        list(tried([Task("no such mutant", 0), Task("M12", 1)], profile="quick", device="cpu", jobs=2))
    assert gone(descendants(os.getpid()) - before, 20.0)


def test_whoever_takes_no_more_trials_ends_the_processes() -> None:
    before = descendants(os.getpid())
    with contextlib.closing(tried(TASKS, profile="quick", device="cpu", jobs=1)) as trials:
        next(trials)
    assert gone(descendants(os.getpid()) - before, 20.0)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_outlives_the_command(number: signal.Signals, tmp_path: Path) -> None:
    arguments = ["mutants", "--only", "M1,M2,M3", "--seeds", "3", "--brief", "--jobs", "2"]
    command = subprocess.Popen(
        [sys.executable, "-m", "attention_gate", *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert command.stdout is not None
    assert command.stdout.readline().startswith(b"M10 ")
    others = descendants(command.pid)
    assert len(others) > 10
    command.send_signal(number)
    command.wait(timeout=30)
    command.stdout.close()
    assert gone(others, 20.0)
    assert command.returncode == (-number if number == signal.SIGKILL else 3)


def test_fewer_than_one_process_is_refused() -> None:
    command = [sys.executable, "-m", "attention_gate", "mutants", "--jobs", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (2, "attention-gate: --jobs is 0; it must be at least 1\n")
