"""A process at rest, one that works and one that the machine keeps waiting are distinguished."""

import os
import subprocess
import sys
import time

import pytest

from attention_gate.verify.world import patience as pace
from attention_gate.verify.world.patience import Activity, Patience

LOOP = "while True: pass"
SLEEP = "import time; time.sleep(100)"
IN_A_CHILD = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {LOOP!r}])"
IN_NEW_CHILDREN = "import subprocess\nwhile True: subprocess.run(['sleep', '0.02'])"


@pytest.fixture
def running():
    processes = []

    def start(code):
        processes.append(subprocess.Popen([sys.executable, "-c", code], start_new_session=True))
        return processes[-1].pid

    yield start
    for process in processes:
        os.killpg(process.pid, 9)
        process.wait()


def _watched(pid: int, seconds: float = 1.2) -> Activity:
    time.sleep(0.4)  # let it start
    activity = Activity()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        time.sleep(0.1)
        activity.look([pid])
    return activity


def test_who_sleeps_rests(running):
    pid = running(SLEEP)
    time.sleep(0.5)
    assert _watched(pid).resting > 0.7


@pytest.mark.parametrize("code", [LOOP, IN_A_CHILD])
def test_who_works_does_not_rest_nor_who_waits_for_a_child_that_works(running, code):
    assert _watched(running(code)).resting < 0.35


def test_who_keeps_starting_processes_is_not_done_for_being_long(running):
    assert _watched(running(IN_NEW_CHILDREN), 2.0).working < 1.0


def test_who_is_kept_waiting_neither_rests_nor_is_blamed_for_it(running):
    alone = _watched(running(LOOP)).working
    for _ in range(4 * (os.cpu_count() or 1)):
        pid = running(LOOP)
    crowded = _watched(pid)
    assert crowded.resting < 0.35
    assert crowded.working < 0.8 * alone or alone < 0.8  # on a machine that is crowded already, both are short


def test_a_timer_rests_on_a_busy_machine_too(running):
    for _ in range(4 * (os.cpu_count() or 1)):
        running(LOOP)
    pid = running("import time\nwhile True: time.sleep(0.03)")
    assert _watched(pid, 2.5).resting > 0.5


def test_a_gate_that_was_stopped_itself_blames_nobody(running):
    pid = running(SLEEP)
    activity = Activity()
    activity.look([pid])
    activity._looked -= 1000.0
    activity.look([pid])
    assert activity.resting <= pace._LONGEST_LOOK


def test_limits_grow_with_what_was_seen_and_stay_bounded():
    measured = Patience()
    assert (measured.resting, measured.busy) == (pace.RESTING, pace.BUSY)
    measured.saw(2.0)
    assert (measured.resting, measured.busy) == (10.0, 34.0)
    measured.saw(100.0)
    assert (measured.resting, measured.busy) == (110.0, 230.0)


def test_the_first_call_of_a_process_has_a_limit_of_its_own():
    measured = Patience()
    assert measured.limits(first=True) == pace.Limits(pace.RESTING, pace.FIRST, "the first call")
    measured.saw(12.0, first=True)
    assert (measured.busy, measured.busy_at_first) == (pace.BUSY, 24.0)
    measured.hurried = True
    assert measured.busy_at_first == 24.0


def test_a_first_call_that_did_not_end_is_not_waited_for_so_long_again():
    measured = Patience()
    measured.gave_up(first=True)
    assert measured.busy_at_first == pace.BUSY
    assert Patience(hurried=True).busy_at_first == pace.BUSY_HURRIED


def test_all_limits_are_stretched_by_the_seconds_that_a_user_grants():
    measured = Patience(seconds=24.0)
    assert measured.limits() == pace.Limits(9.0, 24.0, "a call")
    assert measured.busy_at_first == 180.0
    measured.hurried = True
    assert measured.limits() == pace.Limits(pytest.approx(1.8), 9.0, "a call")


def test_the_limit_that_was_passed_is_reported_in_words():
    limits = Patience().limits()
    assert limits.passed(Activity(resting=1.0, working=7.0)) == ""
    assert limits.passed(Activity(resting=4.0, working=7.0)) == "at rest for 3.0 s, the limit of a call"
    assert limits.passed(Activity(resting=0.0, working=9.0)) == "at work for 8.0 s, the limit of a call"
