"""The buffers of one operation in the memory of a GPU, staged through host memory on a stream of the network's own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attention_gate.verify.rank.buffers import overlapping, poison_byte
from attention_gate.verify.rank.network_messages import Contents
from attention_gate.verify.rank.stream_lag import SLEEP_SECONDS, Lag


class NetworkStream:
    """The stream on which the network reads and writes, ordered with the target's as NCCL's own stream is.

    An operation begins after what its caller's stream was given before. What waits for it is the stream on which it
    is waited for, and no other. Without a ``lag`` the host waits as well, so that nothing depends on when streams run;
    with one it does not.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.lag: Lag | None = None
        self.stream = torch.cuda.Stream(device)
        self._cycles = _cycles(device)

    def lagging(self, delayed: int) -> Lag:
        """What delays the stream of that number."""

        def current() -> int:
            return int(torch.cuda.current_stream(self.device).cuda_stream)

        return Lag(delayed, int(self.stream.cuda_stream), current, lambda: torch.cuda._sleep(self._cycles))

    def follow(self) -> None:
        """What the network is given from now on begins after what the current stream was given before."""
        self.stream.wait_stream(torch.cuda.current_stream(self.device))

    def lead(self) -> None:
        """What the current stream is given from now on begins after what the network was given before."""
        torch.cuda.current_stream(self.device).wait_stream(self.stream)

    def settle(self) -> None:
        """Wait on the host, unless the order of streams is what is judged."""
        if self.lag is None:
            self.stream.synchronize()

    def read(self, memory: torch.Tensor) -> torch.Tensor:
        """A copy in page-locked host memory, which is there once the stream has come so far."""
        with torch.cuda.stream(self.stream):
            copy = torch.empty(memory.numel(), dtype=torch.uint8, pin_memory=True)
            return copy.copy_(memory, non_blocking=True)

    def write(self, memory: torch.Tensor, contents: bytes) -> None:
        """Copy from host memory, once the stream has come so far."""
        if contents:
            with torch.cuda.stream(self.stream):
                memory.copy_(torch.frombuffer(bytearray(contents), dtype=torch.uint8).pin_memory(), non_blocking=True)

    def poison(self, memory: torch.Tensor, byte: int) -> None:
        """Fill with a byte, once the stream has come so far."""
        with torch.cuda.stream(self.stream):
            memory.fill_(byte)


class CudaBuffers:
    """Buffers on a GPU."""

    def __init__(self, sends: Sequence[torch.Tensor], receives: Sequence[torch.Tensor], network: NetworkStream) -> None:
        self._network = network
        self._sends, self._receives = [_bytes_of(one) for one in sends], [_bytes_of(one) for one in receives]
        self._poison = [poison_byte(one.dtype) for one in receives]
        self.in_place = overlapping(sends, receives)
        network.follow()
        self._posted = [network.read(one) for one in self._sends]
        self._again: list[torch.Tensor] = []
        for one, byte in zip(self._receives, self._poison, strict=True):
            network.poison(one, byte)
        network.settle()

    def first(self) -> Contents:
        """What is sent, as of when it was posted."""
        self._network.stream.synchronize()
        return [_contents(copy) for copy in self._posted]

    def present(self) -> Contents:
        """What is sent, now."""
        if self._network.lag is not None:
            return self.first()  # it is read a second time when the target waits for it
        return self._now(self._sends)

    def touched(self, *, sends: bool) -> bool:
        """Whether the target has written to a buffer since."""
        if self._network.lag is not None:
            return False
        poison = [bytes([byte]) * one.numel() for one, byte in zip(self._receives, self._poison, strict=False)]
        changed = sends and any(now != then for now, then in zip(self.present(), self.first(), strict=False))
        return changed or any(now != due for now, due in zip(self._now(self._receives), poison, strict=False))

    def fill(self, arrived: Contents | None, *, completed: bool) -> None:
        """What was received is in its buffers from now on."""
        network = self._network
        if network.lag is not None and not self.in_place:
            self._again = [network.read(one) for one in self._sends]
        for one, received in zip(self._receives, arrived or (), strict=False):
            network.write(one, received)
        network.lead()
        if completed:
            network.stream.synchronize()
        network.settle()

    def join(self) -> None:
        """It is waited for once more."""
        self._network.lead()

    def overwritten(self) -> bool:
        """Whether a stream that did not wait for the operation wrote to what is sent."""
        first = self.first()
        return bool(self._again) and [_contents(copy) for copy in self._again] != first

    def let_go(self) -> None:
        """The tensors are the target's alone again."""
        self._sends, self._receives = [], []

    def _now(self, memory: Sequence[torch.Tensor]) -> Contents:
        torch.cuda.synchronize(self._network.device)
        copies = [self._network.read(one) for one in memory]
        self._network.stream.synchronize()
        return [_contents(copy) for copy in copies]


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The same memory as bytes, past autograd, as a real transport writes."""
    return tensor.data.reshape(-1).view(torch.uint8)


def _contents(copy: torch.Tensor) -> bytes:
    return copy.numpy().tobytes()


def _cycles(device: torch.device) -> int:
    """About how many cycles of the GPU's clock a lagging stream sleeps for."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    tried = 1_000_000
    with torch.cuda.device(device):
        for _ in range(2):  # the first time loads the kernel
            start.record()
            torch.cuda._sleep(tried)
            end.record()
            end.synchronize()
    return max(1, round(tried * SLEEP_SECONDS / (start.elapsed_time(end) / 1000)))
