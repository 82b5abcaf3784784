"""What is wrong at long lengths only is caught, and the report says from which length on it is wrong."""

import pytest

from attention_gate.verify.judge.session import Session
from attention_gate.verify.long.long_cases import cases_of
from attention_gate.verify.long.shortest_failure import shortest_failure
from attention_gate.verify.long.steps import SAMPLES, examine
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.local import Worlds

FILE = "tests/verify/long/wrong_at_length.py"


@pytest.fixture(scope="module")
def worlds():
    with Worlds() as found:
        yield found


def session_of(worlds, name):
    target, source = as_target(f"{FILE}:{name}")
    return Session(target, source, worlds, (2,))


def judged(session, length, step):
    return examine(session, cases_of(session.target, 2)["logic"](length), step)


@pytest.mark.parametrize(
    ("name", "step", "words"),
    [
        ("past_two_to_the_31", SAMPLES, "sampled rows, first 2048"),
        ("past_two_to_the_31", "constant value", "first at position 2048"),
        ("one_row_in_a_thousand", SAMPLES, "the output is wrong in"),
        ("one_row_in_a_thousand", "constant value", "first at position 0"),
        ("last_segment", SAMPLES, "sampled rows, first 3840"),
        ("last_segment", "constant value", "first at position 3840"),
        ("row_offset_wraps", SAMPLES, "sampled rows, first 1024"),
    ],
)
def test_it_is_caught_at_4096(worlds, name, step, words):
    outcome = judged(session_of(worlds, name), 4096, step)
    assert outcome.verdict == "fail"
    assert words in " ".join(outcome.lines)


def test_what_reads_the_same_wrong_row_each_time_keeps_the_laws(worlds):
    """Samples are needed beside them: with wrapped offsets other keys are seen, and all else is in order."""
    session = session_of(worlds, "row_offset_wraps")
    assert judged(session, 4096, "linearity").verdict == judged(session, 4096, "constant value").verdict == "pass"


def test_the_report_says_from_which_length_on(worlds):
    session = session_of(worlds, "past_two_to_the_31")
    shortest = shortest_failure(lambda length: judged(session, length, "constant value").failed, 4096)
    assert shortest.words() == "it fails from length 2049 on, and passes at 2048"


def test_bisection():
    tried = []

    def fails(length):
        tried.append(length)
        return length >= 1000

    assert shortest_failure(fails, 100_000).words() == "it fails from length 1000 on, and passes at 999"
    assert max(tried) == 1024
    assert shortest_failure(lambda length: True, 50).words() == "it fails at length 4 already"
    few = shortest_failure(fails, 100_000, probes=2)
    assert few.words() == f"it fails at length {few.fails}, and passes at {few.passes}; lengths between were not tried"
    assert shortest_failure(lambda length: length == 77, 77).fails == 77
