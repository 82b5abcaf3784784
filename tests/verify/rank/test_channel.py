"""Messages arrive whole, and what is no message is distinguished from one."""

import os
import pickle
import re
import struct
import threading

import numpy as np
import pytest

from attention_gate.verify.rank.attended import Attended
from attention_gate.verify.rank.channel import BadMessage, Channel, plain
from attention_gate.verify.rank.jobs import Returned


@pytest.fixture
def ends():
    one, other = Channel.pair()
    yield one, other
    one.close()
    other.close()


def _raw(channel: Channel, data: bytes) -> None:
    os.write(channel.fileno(), data)


def test_a_reply_arrives_as_it_was_sent(ends):
    gate, rank = ends
    array = np.arange(6.0).reshape(2, 3)
    rank.send(Returned(Attended(arrays={"out": array}, facts={"out": "tensor"}), 0.5))
    (reply,) = gate.poll()
    assert reply.seconds == 0.5
    np.testing.assert_array_equal(reply.value.arrays["out"], array)


def test_a_part_of_a_message_is_not_waited_for(ends):
    gate, rank = ends
    body = pickle.dumps("late")
    whole = struct.pack("!4sQ", b"gate", len(body)) + body
    for part in (whole[:2], whole[2:7], whole[7:-1]):
        _raw(rank, part)
        assert gate.poll() is None
    _raw(rank, whole[-1:])
    assert gate.poll() == ("late",)


def test_messages_that_come_together_are_taken_one_by_one(ends):
    gate, rank = ends
    rank.send(1)
    rank.send(2)
    assert (gate.poll(), gate.poll(), gate.poll()) == ((1,), (2,), None)


def test_a_message_larger_than_any_buffer_arrives(ends):
    gate, rank = ends
    array = np.random.default_rng(0).normal(size=1 << 19)
    sender = threading.Thread(target=rank.send, args=(Returned(array, 0.0),))
    sender.start()
    while (message := gate.poll()) is None:
        pass
    sender.join()
    np.testing.assert_array_equal(message[0].value, array)


def test_the_end_of_the_other_side_is_reported_after_its_last_message(ends):
    gate, rank = ends
    rank.send("last words")
    rank.close()
    assert gate.poll() == ("last words",)
    with pytest.raises(EOFError):
        gate.poll()


@pytest.mark.parametrize("data", [b"n", b"nonsense", b"gatf" + bytes(20), b"gate" + b"\xff" * 8, b"gatn"])
def test_what_is_no_message_is_refused_at_its_first_bytes(ends, data):
    gate, rank = ends
    _raw(rank, data)
    with pytest.raises(BadMessage):
        gate.poll()


class _Foreign:
    def __reduce__(self):
        return os.system, ("echo unpickled >&2",)


@pytest.mark.parametrize("value", [_Foreign(), threading.Thread, print, np.save, ValueError("x")])
def test_nothing_but_plain_data_and_the_harness_own_classes_is_accepted(ends, value):
    gate, rank = ends
    rank.send(value)
    with pytest.raises(BadMessage):
        gate.poll()


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("attention_gate.verify.world.fork_client", "subprocess.Popen"),
        ("attention_gate.verify.rank.jobs", "np.save"),
        ("attention_gate.verify.rank.worker", "main"),
        ("numpy", "testing.rundocs"),
        ("numpy", "save"),
        ("builtins", "eval"),
    ],
)
def test_no_name_is_looked_up_but_those_of_replies(ends, module, name):
    """Nor one that walks into a module: those ran a program in the gate."""
    gate, rank = ends
    body = b"\x80\x04" + _text(module) + _text(name) + b"\x93."  # STACK_GLOBAL: the value is what the name stands for
    with pytest.raises(BadMessage, match=f"a reply holds a {re.escape(module)}.{re.escape(name)}"):
        plain(body)
    _raw(rank, struct.pack("!4sQ", b"gate", len(body)) + body)
    with pytest.raises(BadMessage):
        gate.poll()


def _text(text):
    return b"\x8c" + bytes([len(text)]) + text.encode()


@pytest.mark.parametrize("value", [None, 1, 2.5, "text", [1, (2,), {"a": {3}}], np.float64(1.5)])
def test_plain_data_is_accepted(ends, value):
    gate, rank = ends
    rank.send(value)
    assert gate.poll() == (value,)


def test_who_does_not_read_is_not_waited_for(ends):
    gate, _ = ends
    with pytest.raises(TimeoutError):
        gate.send(b"x" * (1 << 24), seconds=0.1)


def test_descriptors_travel_beside_a_value(ends):
    gate, rank = ends
    readable, writable = os.pipe()
    gate.send("here", descriptors=[writable])
    value, (received,) = rank.receive_with(4)
    assert value == "here"
    os.write(received, b"through")
    assert os.read(readable, 10) == b"through"
    for descriptor in (readable, writable, received):
        os.close(descriptor)
