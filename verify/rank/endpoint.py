"""A rank's end of the simulated network: operations posted, buffers poisoned until their wait, contents handed over.

Nothing crosses before the rank waits, polls or ends: then it sends the network all that it did since, with the present
contents of everything in flight, and does not move until it is woken. What it sends is therefore read as late as
the network likes, and what happens depends on the program and the schedule alone, never on the timing of processes.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attention_gate.verify.rank.buffers import Buffers, HostBuffers
from attention_gate.verify.rank.call_sites import Calls
from attention_gate.verify.rank.channel import Channel
from attention_gate.verify.rank.cuda_buffers import CudaBuffers, NetworkStream
from attention_gate.verify.rank.network_messages import Contents, Piece, Post, Signal, Stop, Wait, Wake


class NetworkStopped(BaseException):
    """Ends the target's call once the network has seen enough; no handler of the target's is meant to catch it."""


@dataclass
class _Operation:
    post: Post
    buffers: Buffers
    fixed: Contents | None = None  # contents that can no longer change
    arrived: Contents | None = None
    done: bool = False
    waited: bool = False
    source: int = -1


class Endpoint:
    """One rank's operations of one job; ``begin`` makes it ready for the next."""

    def __init__(self, rank: int, channel: Channel) -> None:
        self.rank = rank
        self.stage = "forward"
        self.work = 0
        self._channel = channel
        self._lock = threading.RLock()
        self._calls = Calls()
        self._streams: dict[torch.device, NetworkStream] = {}
        self.begin("rendezvous")

    def begin(self, model: str) -> None:
        """Forget the last job; from now on operations behave as in that delivery model."""
        self.model = model
        self.stage, self.work = "forward", 0
        self.remarks: list[str] = []
        self._operations: list[_Operation] = []
        self._under_way: dict[int, _Operation] = {}
        self._touched: set[int] = set()
        self._log: list[Post | Wait] = []
        self._batch = -1
        self._open_batch: int | None = None
        self._calls.forget()
        for stream in self._streams.values():
            stream.lag = None

    def post(
        self,
        kind: str,
        group: Any,
        *,
        peer: int = -1,
        tag: int = 0,
        sends: Sequence[torch.Tensor] = (),
        receives: Sequence[torch.Tensor] = (),
        reduction: str = "",
        together: bool = False,
    ) -> int:
        """Start an operation; returns its number. ``together``: in one batch with the operation before it."""
        with self._lock:
            call, line, in_batch = self._calls.locate()
            if not (in_batch or together) or self._batch < 0:
                self._batch += 1
            batch = self._batch if self._open_batch is None else self._open_batch
            post = Post(
                number=len(self._operations),
                kind=kind,
                call=call or kind,
                group=group.label,
                ranks=group.ranks,
                peer=peer,
                tag=tag,
                sends=tuple(_piece(tensor) for tensor in sends),
                receives=tuple(_piece(tensor) for tensor in receives),
                reduction=reduction,
                batch=batch,
                line=line,
                stage=self.stage,
                work=self.work,
            )
            operation = _Operation(post, self._buffers(sends, receives))
            self._operations.append(operation)
            self._under_way[post.number] = operation
            self._log.append(post)
            return post.number

    def stream(self, device: torch.device) -> NetworkStream:
        """The network's own stream on a GPU."""
        if device not in self._streams:
            self._streams[device] = NetworkStream(device)
        return self._streams[device]

    def start_batch(self) -> None:
        """All that is posted until ``end_batch`` is one batch."""
        self._batch += 1
        self._open_batch = self._batch

    def end_batch(self) -> tuple[int, ...]:
        """End the batch; returns the numbers of its operations."""
        batch, self._open_batch = self._open_batch, None
        return tuple(o.post.number for o in self._operations if o.post.batch == batch)

    def wait(self, numbers: tuple[int, ...], owner: object) -> None:
        """Block until the operations are through; then, and not before, what they received is in their buffers."""
        with self._lock:
            operations = self._mine(numbers, owner)
            if all(operation.waited for operation in operations):
                for operation in operations:
                    operation.buffers.join()
                return
            _, line, _ = self._calls.locate()
            self._calls.forget()
            self._log.append(Wait(numbers, len(self._operations), line, self.stage, self.work))
            for operation in operations:
                self._look_at(operation)
                if self.model == "eager":
                    self._let_go(operation)
            if missing := tuple(o.post.number for o in operations if not o.done):
                self._exchange("wait", missing)
            for operation in operations:
                self._deliver(operation, completed=False)

    def poll(self, numbers: tuple[int, ...], owner: object) -> bool:
        """Whether the operations are through; if so, they count as waited for."""
        with self._lock:
            operations = self._mine(numbers, owner)
            if missing := tuple(o.post.number for o in operations if not o.done):
                self._exchange("poll", missing)
            if not all(operation.done for operation in operations):
                return False
            for operation in operations:
                self._deliver(operation, completed=True)
            return True

    def source(self, number: int) -> int:
        """The global rank that a receive from any rank got its message from."""
        return self._operations[number].source

    def generation(self) -> object:
        """Changes with every job, so that a handle knows whether its operations are of this one."""
        return self._operations

    def enter(self, stage: str) -> None:
        """Start a pass: the amount of work computed in the last one is recorded."""
        self._log.append(Wait((), len(self._operations), "", self.stage, self.work))
        self.stage = stage
        self._log.append(Wait((), len(self._operations), "", self.stage, self.work))

    def add_work(self, amount: int) -> None:
        """Add to the amount of work computed."""
        self.work += amount

    def end(self, *, failed: bool) -> None:
        """Tell the network that the job is over on this rank, and what it left behind."""
        unwaited = tuple(o.post.number for o in self._operations if not o.waited)
        if not failed:
            self._touched.update(o.post.number for o in self._operations if o.buffers.overwritten())
        self._signal("failed" if failed else "end", (), unwaited)
        for operation in self._operations:
            operation.buffers.let_go()

    def _buffers(self, sends: Sequence[torch.Tensor], receives: Sequence[torch.Tensor]) -> Buffers:
        device = next((tensor.device for tensor in (*sends, *receives)), torch.device("cpu"))
        return (
            CudaBuffers(sends, receives, self.stream(device)) if device.type == "cuda" else HostBuffers(sends, receives)
        )

    def _mine(self, numbers: tuple[int, ...], owner: object) -> list[_Operation]:
        if owner is not self._operations:
            raise RuntimeError("this handle belongs to an earlier call that has ended")
        return [self._operations[number] for number in numbers]

    def _let_go(self, operation: _Operation) -> None:
        """Eager delivery: a send is complete once its contents are taken."""
        if operation.post.kind == "send" and not operation.done:
            operation.fixed = operation.buffers.present()
            operation.done = True

    def _look_at(self, operation: _Operation) -> None:
        """Whether the target has written into buffers that it must leave alone until its wait returns."""
        if operation.buffers.touched(sends=operation.fixed is None and not operation.buffers.in_place):
            self._touched.add(operation.post.number)

    def _read(self, operation: _Operation) -> Contents:
        """What is sent, read as late as can be; in place, before it is received into."""
        return operation.buffers.first() if operation.buffers.in_place else operation.buffers.present()

    def _deliver(self, operation: _Operation, *, completed: bool) -> None:
        operation.waited = True
        operation.buffers.fill(operation.arrived, completed=completed)
        operation.buffers.let_go()
        operation.arrived = None

    def _exchange(self, state: str, wanted: tuple[int, ...]) -> None:
        self._signal(state, wanted)
        answer = self._channel.receive()
        if isinstance(answer, Stop):
            raise NetworkStopped(answer.reason)
        assert isinstance(answer, Wake)
        for number, received in answer.done.items():
            operation = self._operations[number]
            operation.done, operation.arrived = True, received
            operation.source = answer.sources.get(number, -1)
            self._under_way.pop(number, None)

    def _signal(self, state: str, wanted: tuple[int, ...], unwaited: tuple[int, ...] = ()) -> None:
        contents = {}
        for number, operation in list(self._under_way.items()):
            self._look_at(operation)
            if operation.post.sends:
                contents[number] = operation.fixed or self._read(operation)
                if operation.done:  # let go of: its contents will never change again
                    del self._under_way[number]
        log, self._log = self._log, []
        touched = tuple(sorted(self._touched))
        self._channel.send(Signal(state, log, contents, wanted, touched, unwaited, tuple(self.remarks)))


def _piece(tensor: torch.Tensor) -> Piece:
    return Piece(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
