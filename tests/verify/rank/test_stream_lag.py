"""Which stream lags, by the order in which a call uses them, without a GPU: streams here are numbers."""

import pytest
import torch

from attention_gate.verify.rank.stream_lag import CALLER, NETWORK, SLEEP_SECONDS, Lag


class Streams:
    """The current stream, and how often each slept; the clock goes on by what the test says."""

    def __init__(self) -> None:
        self.now, self.current, self.slept = 0.0, 7, list[int]()

    def lag(self, delayed: int) -> Lag:
        """What delays a stream; the network's is number 99."""
        return Lag(delayed, 99, lambda: self.current, lambda: self.slept.append(self.current), lambda: self.now)

    def use(self, *streams: int) -> None:
        """An operation of torch on each."""
        for stream in streams:
            self.current, self.now = stream, self.now + 1.0
            torch.ones(1) + 1


@pytest.mark.parametrize(
    ("delayed", "expected"), [(NETWORK, {99}), (CALLER, {7}), (CALLER + 1, {5}), (CALLER + 2, {4}), (CALLER + 3, set())]
)
def test_streams_are_numbered_in_the_order_of_their_first_use(delayed: int, expected: set[int]) -> None:
    streams = Streams()
    with streams.lag(delayed) as lag:
        streams.use(7, 5, 99, 4, 5, 7)
    assert set(streams.slept) == expected
    assert lag.streams == 4


def test_a_stream_sleeps_again_only_once_it_may_have_caught_up() -> None:
    streams = Streams()
    with streams.lag(CALLER) as lag:
        streams.use(7)
        count = len(streams.slept)
        assert count >= 1
        torch.ones(1)
        assert len(streams.slept) == count
        streams.now += SLEEP_SECONDS
        lag.note()
        assert len(streams.slept) == count + 1


def test_a_stream_that_becomes_the_current_one_is_used_though_torch_issues_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    streams = Streams()
    monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(streams, "current", stream))
    usual = torch.cuda.set_stream
    with streams.lag(CALLER + 1) as lag:
        streams.now += 1.0
        torch.cuda.set_stream(5)  # type: ignore[arg-type]
        assert lag.streams == 3
    assert streams.slept == [5]
    assert torch.cuda.set_stream is usual


def test_backward_passes_are_delayed_too() -> None:
    streams = Streams()
    tensor = torch.ones(2, requires_grad=True)
    with streams.lag(CALLER):
        out = (tensor * 2).sum()
        streams.slept.clear()
        streams.now += 1.0
        out.backward()
    assert streams.slept
