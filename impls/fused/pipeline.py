"""The rows of one pass that travel: packed, fetched one part ahead, and their gradients sent home."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.fused import symmetric
from attention_gate.impls.fused.combine import add, base
from attention_gate.impls.fused.grid import Piece, compact, grid
from attention_gate.impls.fused.packed_plan import PackedPlan
from attention_gate.impls.fused.plan import Plan, Span, Transfer, chunks
from attention_gate.impls.fused.row_transport import Messages, RowTransport
from attention_gate.impls.fused.two_streams import TwoStreams


class Task(NamedTuple):
    """What to do, on which group, whether rows may travel part by part, on whose kernels, and with which soft cap."""

    plan: Plan | PackedPlan
    scale: float
    group: dist.ProcessGroup | None
    in_parts: bool
    backend: str = "auto"
    softcap: float | None = None


class Tensors(NamedTuple):
    """Query, key and value of this rank, or their gradients, each (batch, local_length, heads, dim)."""

    query: Tensor
    key: Tensor
    value: Tensor


class Buffer(NamedTuple):
    """Records (rows, elements), and how keys and values lie in each: batch, offsets, heads, dim, first element."""

    rows: Tensor
    of_keys: tuple[int, int, int, int, int]
    of_values: tuple[int, int, int, int, int]


class Travelling(NamedTuple):
    """Gradients of some rows of the buffer, of keys and of values, each as a grid."""

    rows: range
    key: Tensor
    value: Tensor


class Pipeline:
    """The rows of one pass that travel: packed in parts, fetched one part ahead, their gradients sent home.

        pipeline.start()
        with pipeline:
            for part in range(pipeline.parts):
                with pipeline.stream(part):
                    own, buffer = pipeline.seen(part)
                    ...  # reads own rows, and rows of the buffer
                    pipeline.release(part)

    A backward pass calls `send_home` after `release`, and `home` once the next part is computed.
    """

    def __init__(self, inputs: Tensors, span: Span, task: Task) -> None:
        self._inputs, self._span = inputs, span
        query, key, value = inputs
        batch, length, kv_heads, _ = key.shape
        world_size = dist.get_world_size(task.group)
        # Of the longest shard, whichever this one is: all ranks take the same number of parts.
        elements = span.rows * span.rate * batch * kv_heads * (key.shape[-1] + value.shape[-1])
        self.parts = chunks(span, kv_heads, world_size, elements) if task.in_parts else 1
        self._query_heads, self._key_heads = query.shape[2] // self.parts, kv_heads // self.parts
        self._keys, self._values = (grid(rows, length, span.rate) for rows in (key, value))
        self._offsets, self._columns = self._keys.shape[2], self._keys.shape[3] // self.parts
        self._batch, self._dims = batch, (key.shape[-1], value.shape[-1])
        widths = tuple(batch * self._offsets * self._columns * dim for dim in self._dims)
        self._widths = widths[0], widths[1]
        place = (batch, self._offsets, self._columns)
        self._of_keys, self._of_values = (*place, self._dims[0], 0), (*place, self._dims[1], widths[0])
        self.transport = _transport(span, key, self.parts, self._widths, task.group)
        count = min(2, self.parts)
        self._buffers = [key.new_empty((span.buffer_rows, sum(self._widths))) for _ in range(count)]

    def start(self) -> None:
        """Pack this rank's rows, let the others have them, and start to fetch theirs.

        The first part is on its way while the others are packed.
        """
        self._pack(0, 1)
        self.transport.publish()
        self.transport.fetch(0, self._buffers[0])
        if self.parts > 1:
            self._pack(1, self.parts)
            self.transport.publish()

    def _pack(self, first: int, last: int) -> None:
        """Pack some parts of this rank's rows."""
        for rows, grid_rows, place in zip(
            self._inputs[1:], (self._keys, self._values), (self._of_keys, self._of_values), strict=True
        ):
            if self.parts > 1:
                heads = slice(first * self._key_heads, last * self._key_heads)
                packed = self.transport.packed[first:last, : rows.shape[1]]
                _copy_parts(packed, rows[:, :, heads], *place[2:])
            else:
                _copy_grid(compact(self.transport.packed[0, : grid_rows.shape[4]], *place), grid_rows)

    def __enter__(self) -> "Pipeline":
        """Let parts take turns on two streams; what comes before is there for all of them."""
        self._streams = TwoStreams(self._inputs.query.device, self.parts)
        return self

    def __exit__(self, *error: object) -> None:
        """Make what follows wait for all parts; nothing of this pass is read any more after that."""
        self._streams.join()
        self.transport.ended()

    def stream(self, part: int) -> AbstractContextManager[object]:
        """Return a context in which kernels of that part run: after those of the part before the last."""
        return self._streams.of(part)

    def seen(self, part: int) -> tuple[Tensors, Buffer]:
        """Return this rank's own rows of a part, and the buffer of all rows that are seen, once they have arrived.

        The next part is on its way.
        """
        if part + 1 < self.parts:
            with self.stream(part + 1):
                self.transport.fetch(part + 1, self._buffers[(part + 1) % 2])
        self.transport.arrived(part)
        query, key, value = self._inputs
        own = Tensors(self.of_query_heads(query, part), self.of_key_heads(key, part), self.of_key_heads(value, part))
        return own, Buffer(self._buffers[part % 2], self._of_keys, self._of_values)

    def release(self, part: int) -> None:
        """Note that the buffer of this part is free for the part after the next."""
        self.transport.released(part)

    def of_query_heads(self, rows: Tensor, part: int) -> Tensor:
        """Return the query heads of a part, of a tensor (batch, rows, heads, dim) or without dim."""
        return rows.narrow(2, part * self._query_heads, self._query_heads)

    def of_key_heads(self, rows: Tensor, part: int) -> Tensor:
        """Return the kv heads of a part, of a tensor (batch, rows, kv_heads, dim)."""
        return rows.narrow(2, part * self._key_heads, self._key_heads)

    def send_home(
        self, part: int, travelling: Sequence[Travelling], moves_home: bool
    ) -> tuple[list[Piece], list[Piece]]:
        """Send the gradients of buffered rows to their owners; return this rank's own, of keys and of values."""
        span = self._span
        records = [
            [(entry.rows, self._records(entry.key)) for entry in travelling],
            [(entry.rows, self._records(entry.value)) for entry in travelling],
        ]

        def of(place: Transfer) -> tuple[Transfer, Tensor, Tensor]:
            rows = range(place.place, place.place + place.stop - place.start)
            return place, self._gradient(rows, records[0], 0), self._gradient(rows, records[1], 1)

        if moves_home:
            self.transport.send_home(part, [of(want) for want in span.wants])
        own = [of(place) for place in span.own]
        keys = [self._piece(grads, place.start, 0) for place, grads, _ in own]
        return keys, [self._piece(grads, place.start, 1) for place, _, grads in own]

    def home(self, part: int) -> tuple[list[Piece], list[Piece]]:
        """Return the gradients of this rank's keys and values that came from other ranks."""
        coming = self.transport.home(part)
        keys = [self._piece(grads.keys, grads.start, 0) for grads in coming]
        return keys, [self._piece(grads.values, grads.start, 1) for grads in coming]

    def _records(self, grads: Tensor) -> Tensor:
        """Return a grid of one segment as records (rows, elements): a view where it lies so."""
        return grads.permute(4, 0, 1, 2, 3, 5).reshape(grads.shape[4], -1)

    def _gradient(self, rows: range, records: Sequence[tuple[range, Tensor]], which: int) -> Tensor:
        """Return the gradients of some rows of the buffer, of keys (0) or of values (1), as (rows, elements).

        `records` are those of all rows that blocks see; what several blocks see is added up.
        """
        seeing = [entry for entry in records if entry[0].start < rows.stop and rows.start < entry[0].stop]
        if len(seeing) == 1 and seeing[0][0].step == 1 and _holds(seeing[0][0], rows):
            keys, grads = seeing[0]
            return grads.narrow(0, rows.start - keys.start, len(rows)).contiguous()
        total = self.transport.packed.new_empty((len(rows), self._widths[which]))
        width = self._dims[which]
        heads = self._offsets * self._columns
        view = total.view(len(rows), self._batch, heads, width).transpose(0, 1)
        pieces = []
        for keys, grads in seeing:
            # Of this block's keys, those within the rows: a progression again.
            first = max(0, -((keys.start - rows.start) // keys.step))
            some = compact(grads[first : -((keys.start - rows.stop) // keys.step)], self._batch, 1, heads, width)
            pieces.append(Piece(some, None, _LONG, keys.step, 1, keys.start + first * keys.step - rows.start))
        add(view, pieces)
        return total

    def _piece(self, rows: Tensor, start: int, which: int) -> Piece:
        """Return gradients (rows, elements) as a piece of this rank's keys or values, from selected row `start` on."""
        rate = self._span.rate
        view = compact(rows, self._batch, self._offsets, self._columns, self._dims[which])
        return Piece(view, None, _LONG, rate, rate, start * rate)


_LONG = 1 << 30  # no shard is as long, and it fits the 32 bits that kernels count in


def _transport(
    span: Span, like: Tensor, parts: int, widths: tuple[int, int], group: dist.ProcessGroup | None
) -> RowTransport:
    if like.is_cuda and symmetric.is_wanted:
        needed = symmetric.SharedMemory.bytes_needed(span, parts, widths, like.dtype, dist.get_world_size(group))
        place = symmetric.workspace(needed, group, like.device)
        if place is not None:
            return symmetric.SharedMemory(place, span, like.dtype, parts, widths)
    return Messages(span, like, parts, widths, group)


def _copy_parts(packed: Tensor, rows: Tensor, columns: int, dim: int, first: int) -> None:
    """Copy (batch, rows, heads, dim) to records (parts, rows, elements), so many heads to each, all parts at once."""
    parts = packed.shape[0]
    for sample in rows:
        target = packed[:, :, first : first + columns * dim].unflatten(2, (columns, dim))
        add(target, [base(sample.unflatten(1, (parts, columns)).transpose(0, 1))])
        first += columns * dim


def _copy_grid(target: Tensor, source: Tensor) -> None:
    """Copy a grid row by row, as records hold them."""
    if source.shape[1:3] == (1, 1):
        heads = target[:, 0, 0].transpose(1, 2)
        add(heads, [base(source[:, 0, 0].transpose(1, 2))])
    else:
        target.permute(4, 0, 1, 2, 3, 5).copy_(source.permute(4, 0, 1, 2, 3, 5))


def _holds(outer: range, inner: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop
