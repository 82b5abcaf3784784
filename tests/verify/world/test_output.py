"""What a rank has printed is in its report, however busy the machine is."""

import os
import time

import pytest

from attention_gate.verify.world import rank_process as member


@pytest.fixture
def drain(monkeypatch):
    """A drain whose thread does not come to read, and the end that a worker writes to."""
    monkeypatch.setattr(member, "wait", lambda those, timeout: time.sleep(0.05) or [])
    source, sink = os.pipe()
    drain = member._Drain(source)
    yield drain, sink
    drain.close()


def test_all_that_was_printed_is_there_though_nobody_had_time_to_read_it(drain):
    drain, sink = drain
    os.write(sink, b"on my way out\n")
    os.close(sink)
    assert drain.text() == "on my way out\n"


def test_what_was_printed_is_there_while_a_child_holds_the_pipe_open(drain):
    drain, sink = drain
    os.write(sink, b"first\n")
    assert drain.text() == "first\n"
    os.write(sink, b"then\n")
    assert drain.text() == "first\nthen\n"
    os.close(sink)


def test_the_end_is_kept_of_more_than_fits(drain):
    drain, sink = drain
    for _ in range(4):
        os.write(sink, b"x" * 60_000)
        drain.text()
    os.write(sink, b"the end")
    os.close(sink)
    assert drain.text().endswith("x" * 100 + "the end")
    assert len(drain.text()) == 8192
