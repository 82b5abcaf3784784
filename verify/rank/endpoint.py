"""A rank's end of the simulated network: operations posted, buffers poisoned until their wait, contents handed over.

Nothing crosses before the rank waits, polls or ends: then it sends the network all that it did since, with the present
contents of everything in flight, and does not move until it is woken. What it sends is therefore read as late as
the network likes, and what happens depends on the program and the schedule alone, never on the timing of processes.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attention_gate.verify.rank.call_sites import Calls
from attention_gate.verify.rank.channel import Channel
from attention_gate.verify.rank.network_messages import Contents, Piece, Post, Signal, Stop, Wait, Wake


class NetworkStopped(BaseException):
    """Ends the target's call once the network has seen enough; no handler of the target's is meant to catch it."""


@dataclass
class _Operation:
    post: Post
    sends: tuple[torch.Tensor, ...]
    receives: tuple[torch.Tensor, ...]
    first: Contents  # contents when it was posted
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
            operation = _Operation(post, tuple(sends), tuple(receives), [_contents(tensor) for tensor in sends])
            if any(_overlap(one, other) for one in sends for other in receives):
                operation.fixed = operation.first  # in place: what is sent is about to be overwritten
            for tensor in receives:
                _poison(tensor)
            self._operations.append(operation)
            self._under_way[post.number] = operation
            self._log.append(post)
            return post.number

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
                self._deliver(operation)

    def poll(self, numbers: tuple[int, ...], owner: object) -> bool:
        """Whether the operations are through; if so, they count as waited for."""
        with self._lock:
            operations = self._mine(numbers, owner)
            if missing := tuple(o.post.number for o in operations if not o.done):
                self._exchange("poll", missing)
            if not all(operation.done for operation in operations):
                return False
            for operation in operations:
                self._deliver(operation)
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
        self._signal("failed" if failed else "end", (), unwaited)
        for operation in self._operations:
            operation.sends = operation.receives = ()

    def _mine(self, numbers: tuple[int, ...], owner: object) -> list[_Operation]:
        if owner is not self._operations:
            raise RuntimeError("this handle belongs to an earlier call that has ended")
        return [self._operations[number] for number in numbers]

    def _let_go(self, operation: _Operation) -> None:
        """Eager delivery: a send is complete once its contents are taken."""
        if operation.post.kind == "send" and not operation.done:
            operation.fixed = operation.fixed or [_contents(tensor) for tensor in operation.sends]
            operation.done = True

    def _look_at(self, operation: _Operation) -> None:
        """Whether the target has written into buffers that it must leave alone until its wait returns."""
        sends = [] if operation.fixed is not None else operation.sends
        changed = any(_contents(now) != then for now, then in zip(sends, operation.first, strict=False))
        if changed or any(_contents(tensor) != _poison_of(tensor) for tensor in operation.receives):
            self._touched.add(operation.post.number)

    def _deliver(self, operation: _Operation) -> None:
        operation.waited = True
        for tensor, received in zip(operation.receives, operation.arrived or (), strict=False):
            ctypes.memmove(tensor.data_ptr(), received, len(received))
        operation.sends = operation.receives = ()
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
                contents[number] = operation.fixed or [_contents(tensor) for tensor in operation.sends]
                if operation.done:  # let go of: its contents will never change again
                    del self._under_way[number]
        log, self._log = self._log, []
        touched = tuple(sorted(self._touched))
        self._channel.send(Signal(state, log, contents, wanted, touched, unwaited, tuple(self.remarks)))


def _piece(tensor: torch.Tensor) -> Piece:
    return Piece(str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))


def _contents(tensor: torch.Tensor) -> bytes:
    size = tensor.numel() * tensor.element_size()
    return ctypes.string_at(tensor.data_ptr(), size) if size else b""


def _poison_of(tensor: torch.Tensor) -> bytes:
    """The poison value of a dtype: NaN, True, or a conspicuous integer."""
    byte = b"\xff" if tensor.dtype.is_floating_point or tensor.dtype.is_complex else b"\xa5"
    return (b"\x01" if tensor.dtype == torch.bool else byte) * (tensor.numel() * tensor.element_size())


def _poison(tensor: torch.Tensor) -> None:
    """Fill a buffer with its poison; past autograd, as a real transport writes."""
    pattern = _poison_of(tensor)
    if pattern:
        ctypes.memmove(tensor.data_ptr(), pattern, len(pattern))


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not one.numel() or not other.numel():
        return False
    start, stop = one.data_ptr(), one.data_ptr() + one.numel() * one.element_size()
    begin, end = other.data_ptr(), other.data_ptr() + other.numel() * other.element_size()
    return start < end and begin < stop
