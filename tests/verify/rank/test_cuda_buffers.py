"""What the network does to buffers of a GPU and in which order, on a stand-in for its stream that acts at once."""

from typing import Any
from unittest.mock import Mock

import pytest
import torch

from attention_gate.verify.rank.cuda_buffers import CudaBuffers


class Stream:
    """The network's stream: everything happens at once, in host memory, and is written down."""

    def __init__(self, lag: Any = None) -> None:
        self.lag, self.device, self.done = lag, torch.device("cpu"), list[str]()
        self.stream = Mock(synchronize=lambda: self.done.append("synchronize"))

    def follow(self) -> None:
        self.done.append("follow")

    def lead(self) -> None:
        self.done.append("lead")

    def settle(self) -> None:
        self.done.append("settle")

    def read(self, memory: torch.Tensor) -> torch.Tensor:
        self.done.append("read")
        return memory.clone()

    def write(self, memory: torch.Tensor, contents: bytes) -> None:
        self.done.append("write")
        memory.copy_(torch.frombuffer(bytearray(contents), dtype=torch.uint8))

    def poison(self, memory: torch.Tensor, byte: int) -> None:
        self.done.append("poison")
        memory.fill_(byte)


@pytest.fixture(autouse=True)
def _no_gpu_to_wait_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)


def buffers(stream: Stream, sent: torch.Tensor, received: torch.Tensor) -> CudaBuffers:
    """The buffers of one operation."""
    return CudaBuffers([sent], [received], stream)  # type: ignore[arg-type]


def test_an_operation_begins_after_what_the_caller_was_given_and_is_read_before_it_is_poisoned() -> None:
    stream, sent, received = Stream(), torch.ones(2), torch.zeros(3)
    buffers(stream, sent, received)
    assert stream.done == ["follow", "read", "poison", "settle"]
    assert torch.isnan(received).all()
    assert sent.tolist() == [1.0, 1.0]


def test_what_arrives_is_written_before_the_stream_that_waits_goes_on() -> None:
    stream, received = Stream(), torch.zeros(2)
    made = buffers(stream, torch.ones(2), received)
    stream.done.clear()
    made.fill(made.first(), completed=False)
    assert received.tolist() == [1.0, 1.0]
    assert stream.done[-3:] == ["write", "lead", "settle"]
    made.join()
    assert stream.done[-1] == "lead"


def test_once_it_is_seen_to_be_completed_the_host_has_waited_too() -> None:
    stream = Stream(lag=object())
    made = buffers(stream, torch.ones(2), torch.zeros(2))
    stream.done.clear()
    made.fill(made.first(), completed=True)
    assert stream.done.index("lead") < len(stream.done) - 1 - stream.done[::-1].index("synchronize")


@pytest.mark.parametrize("which", ["sent", "received"])
def test_a_write_in_flight_is_seen(which: str) -> None:
    tensors = {"sent": torch.ones(2), "received": torch.zeros(2)}
    made = buffers(Stream(), tensors["sent"], tensors["received"])
    assert not made.touched(sends=True)
    tensors[which][0] = 5.0
    assert made.touched(sends=True)
    assert made.touched(sends=False) == (which == "received")
    assert (made.present() != made.first()) == (which == "sent")


@pytest.mark.parametrize("is_overwritten", [False, True])
def test_while_a_stream_lags_what_is_sent_is_read_again_when_it_is_waited_for(is_overwritten: bool) -> None:
    sent = torch.ones(2)
    made = buffers(Stream(lag=object()), sent, torch.zeros(2))
    first = made.present()
    if is_overwritten:
        sent[1] = 7.0
    assert made.present() == first == made.first(), "until then it is what it was when it was posted"
    assert not made.touched(sends=True)
    made.fill(first, completed=False)
    assert made.overwritten() == is_overwritten


def test_in_place_is_no_overwriting() -> None:
    whole = torch.ones(2)
    made = buffers(Stream(lag=object()), whole, whole)
    assert made.in_place
    made.fill([torch.full((2,), 3.0).numpy().tobytes()], completed=False)
    assert whole.tolist() == [3.0, 3.0]
    assert not made.overwritten()


def test_autograd_does_not_see_what_the_network_writes() -> None:
    received = torch.zeros(2)
    version = received._version
    made = buffers(Stream(), torch.ones(2), received)
    made.fill(made.first(), completed=False)
    assert received._version == version
