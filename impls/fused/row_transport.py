"""How rows of other ranks come to a buffer here, and gradients go home: batched messages, on any backend.

A transport serves one pass of one call. Rows that travel are packed once, as (parts, rows, elements); part by part they
are fetched into buffers, and part by part gradients are sent to where the rows came from.
"""

from typing import NamedTuple, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.fused.plan import Span, Transfer


class Gradients(NamedTuple):
    """Gradients of rows `start` to `stop` of a shard, each (rows, elements)."""

    start: int
    stop: int
    keys: Tensor
    values: Tensor


class RowTransport(Protocol):
    """What brings rows and gradients from rank to rank."""

    packed: Tensor  # (parts, rows, elements), to be filled before `publish`

    def publish(self) -> None:
        """Let the other ranks have what has been packed since the last call: the first part, then all others."""

    def fetch(self, part: int, buffer: Tensor) -> None:
        """Start to bring one part of all rows that are seen to the buffer (rows, elements), which was released before.

        That is rows of other ranks, and this rank's own.
        """

    def arrived(self, part: int) -> None:
        """Make what follows wait until the part has arrived."""

    def released(self, part: int) -> None:
        """Note that the buffer of this part will not be read any more by what follows."""

    def send_home(self, part: int, outgoing: list[tuple[Transfer, Tensor, Tensor]]) -> None:
        """Start to bring the gradients of one part, of keys and of values, to the ranks that own the rows."""

    def home(self, part: int) -> list[Gradients]:
        """Return the gradients of this rank's own rows that came home, once they have arrived."""

    def consumed(self, part: int) -> None:
        """Note that what came home will not be read any more by what follows."""

    def ended(self) -> None:
        """Note that what follows reads nothing of this pass."""


class Messages:
    """A transport of batched sends and receives: NCCL and gloo."""

    def __init__(
        self, span: Span, like: Tensor, parts: int, widths: tuple[int, int], group: dist.ProcessGroup | None
    ) -> None:
        self.packed = torch.empty((parts, span.rows, sum(widths)), dtype=like.dtype, device=like.device)
        self._span, self._widths, self._group = span, widths, group
        self._fetching: dict[int, list[dist.Work]] = {}
        self._homing: dict[int, tuple[list[dist.Work], list[Gradients], list[Tensor]]] = {}

    def publish(self) -> None:
        """Nothing: what is packed is sent when it is fetched."""

    def fetch(self, part: int, buffer: Tensor) -> None:
        """Start to receive one part of the wanted rows, send what others want of it, and copy own rows."""
        receives = [
            self._operation(dist.irecv, buffer[want.place : want.place + want.stop - want.start], want.peer)
            for want in self._span.wants
        ]
        sends = [
            self._operation(dist.isend, self.packed[part, give.start : give.stop], give.peer)
            for give in self._span.gives
        ]
        self._fetching[part] = _start(receives + sends)
        copy_own(self._span, self.packed[part], buffer)

    def arrived(self, part: int) -> None:
        """Wait until what was received of the part is there."""
        for work in self._fetching.pop(part):
            work.wait()

    def released(self, part: int) -> None:
        """Nothing: what is received later is received in order."""

    def send_home(self, part: int, outgoing: list[tuple[Transfer, Tensor, Tensor]]) -> None:
        """Start to send the gradients of one part home, and to receive those of own rows."""
        operations, kept = [], []
        for want, *grads in outgoing:
            kept += grads
            operations += [self._operation(dist.isend, grad, want.peer) for grad in grads]
        coming = []
        for give in self._span.gives:
            keys, values = (self.packed.new_empty((give.stop - give.start, width)) for width in self._widths)
            coming.append(Gradients(give.start, give.stop, keys, values))
            operations += [self._operation(dist.irecv, grad, give.peer) for grad in (keys, values)]
        self._homing[part] = _start(operations), coming, kept

    def home(self, part: int) -> list[Gradients]:
        """Wait for the gradients of own rows and return them."""
        works, coming, _ = self._homing.pop(part)
        for work in works:
            work.wait()
        return coming

    def consumed(self, part: int) -> None:
        """Nothing: what came home has a buffer of its own."""

    def ended(self) -> None:
        """Nothing: no pass shares a buffer with another."""

    def _operation(self, operation: object, tensor: Tensor, peer: int) -> dist.P2POp:
        return dist.P2POp(operation, tensor, group=self._group, group_peer=peer)  # type: ignore[arg-type]


def copy_own(span: Span, packed: Tensor, buffer: Tensor) -> None:
    """Copy this rank's own rows of a part to their places in the buffer, if queries see them there."""
    for own in span.own:
        count = own.stop - own.start
        buffer.narrow(0, own.place, count).copy_(packed.narrow(0, own.start, count))


def _start(operations: list[dist.P2POp]) -> list[dist.Work]:
    return dist.batch_isend_irecv(operations) if operations else []
