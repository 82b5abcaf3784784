"""The two streams that parts take turns on, without a GPU: whose turn is on which, and who waits for whom."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import Mock, patch

import torch

from attention_gate.impls.fused.two_streams import TwoStreams


def test_on_a_cpu_there_are_no_streams() -> None:
    streams = TwoStreams(torch.device("cpu"), 4)
    with streams.of(1):
        pass
    streams.join()


class Streams:
    """Streams without a GPU: which one is current, and who waits for whom."""

    def __init__(self) -> None:
        self.current = self.made("caller's")
        self.waits: list[tuple[str, str]] = []

    def made(self, name: str) -> Mock:
        stream = Mock(cuda_stream=name)
        stream.wait_stream = lambda other: self.waits.append((name, other.cuda_stream))
        return stream

    @contextmanager
    def use(self, stream: Mock) -> Iterator[None]:
        before, self.current = self.current, stream
        yield
        self.current = before


def test_odd_parts_have_a_stream_beside_the_callers() -> None:
    streams, device = Streams(), torch.device("cuda", 7)
    with (
        patch("torch.cuda.current_stream", lambda _: streams.current),
        patch("torch.cuda.Stream", lambda _: streams.made(f"beside the {streams.current.cuda_stream}")),
        patch("torch.cuda.stream", streams.use),
    ):
        for current in ("caller's", "another", "caller's"):
            streams.current = streams.made(current)
            streams.waits.clear()
            pair = TwoStreams(device, 2)
            assert streams.waits == [(f"beside the {current}", current)]
            for part in range(4):
                with pair.of(part):
                    assert streams.current.cuda_stream == (current if part % 2 == 0 else f"beside the {current}")
            pair.join()
            assert streams.waits[1:] == [(current, f"beside the {current}")]


def test_a_single_part_has_no_other_stream() -> None:
    with patch("torch.cuda.current_stream", side_effect=AssertionError):
        streams = TwoStreams(torch.device("cuda"), 1)
        with streams.of(0):
            pass
        streams.join()
