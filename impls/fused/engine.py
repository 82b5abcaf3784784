"""One call through fused kernels: local branches, then what spans ranks, part by part, each part fetched ahead.

Heads are independent, so what spans ranks travels by parts of heads, and a kernel takes a part's whole segment at once:
results need no merging across ranks, and the memory for rows under way does not grow with their number. While a kernel
runs, the next part arrives and the gradients of the last one go home.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from impls.fused import kernels, symmetric
from impls.fused.combine import add, merge
from impls.fused.grid import (
    Extents,
    Part,
    Piece,
    as_grid,
    buffered,
    calls,
    compact,
    extents_of,
    grid,
    kernel_views,
    local,
)
from impls.fused.links import Link, Messages
from impls.fused.plan import Block, Plan, Span, Transfer, chunks


class Task(NamedTuple):
    """What to do, on which group, and whether rows may travel part by part."""

    plan: Plan
    scale: float
    group: dist.ProcessGroup | None
    in_parts: bool


class Tensors(NamedTuple):
    """Query, key and value of this rank, or their gradients, each (batch, local_length, heads, dim)."""

    query: Tensor
    key: Tensor
    value: Tensor


class Result(NamedTuple):
    """The whole attention of this rank's queries, and the upstream gradient: lse (batch, local_length, heads)."""

    out: Tensor
    lse: Tensor
    grad_out: Tensor


class Buffer(NamedTuple):
    """Records (rows, elements), and how keys and values lie in each: batch, offsets, heads, dim, first element."""

    rows: Tensor
    of_keys: tuple[int, int, int, int, int]
    of_values: tuple[int, int, int, int, int]


def forward(inputs: Tensors, task: Task) -> tuple[Tensor, Tensor]:
    """Return out (batch, local_length, heads, value_dim) and lse (batch, local_length, heads)."""
    query, _, value = inputs
    batch, length, heads, _ = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    lse = torch.empty((batch, heads, length), dtype=dtype, device=query.device).transpose(1, 2)
    pieces = [piece for block in _local_blocks(task.plan) for piece in _attend(inputs, None, block, task.scale)]
    span = task.plan.span
    if span is None and (whole := _whole(pieces)) is not None:
        return whole
    out = query.new_empty((batch, length, heads, value.shape[-1]))
    if span is None:
        merge(out, lse, pieces)
        return out, lse
    journey = Journey(inputs, span, task)
    journey.start()
    if journey.parts > 1 and pieces:
        merge(out, lse, pieces)
        pieces = [_base(out, lse)]
    for part, own, buffer in journey.parts_in_turn():
        found = [piece for block in span.blocks for piece in _attend(own, buffer, block, task.scale)]
        journey.release(part)
        heads_of_part = journey.query_heads(part)
        before = [_base(out[:, :, heads_of_part], lse[:, :, heads_of_part])] if journey.parts > 1 and pieces else pieces
        merge(out[:, :, heads_of_part], lse[:, :, heads_of_part], [*before, *found])
    return out, lse


def backward(inputs: Tensors, result: Result, task: Task, moves_home: bool) -> Tensors:
    """Return the gradients of this rank's rows, in the inputs' dtype."""
    found: tuple[list[Piece], list[Piece], list[Piece]] = ([], [], [])
    for block in _local_blocks(task.plan):
        for total, pieces in zip(found, _differentiate(inputs, None, result, block, task.scale), strict=True):
            total.extend(pieces)
    grads = Tensors(*(torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) for rows in inputs))
    span = task.plan.span
    if span is None:
        for grad, pieces in zip(grads, found, strict=True):
            add(grad, pieces)
        return grads
    journey = Journey(inputs, span, task)
    journey.start()
    has_base = journey.parts > 1 and bool(found[0])
    if has_base:
        for grad, pieces in zip(grads, found, strict=True):
            add(grad, pieces)
        found = ([], [], [])
    finish: Callable[[], None] | None = None
    for part, own, buffer in journey.parts_in_turn():
        query_heads, key_heads = journey.query_heads(part), journey.key_heads(part)
        here = Tensors(grads.query[:, :, query_heads], grads.key[:, :, key_heads], grads.value[:, :, key_heads])
        seen = Result(*(rows[:, :, query_heads] for rows in result))
        before = tuple([_base(grad)] for grad in here) if has_base else found
        of_query, of_key, of_value = (list(pieces) for pieces in before)
        travelling: list[tuple[range, Tensor, Tensor]] = []
        for block in span.backward_blocks:
            queries, keys, values = _differentiate(own, buffer, seen, block, task.scale)
            of_query += queries
            if block.keys is None:
                of_key, of_value = of_key + keys, of_value + values
            else:
                travelling += [(block.keys, k.rows, v.rows) for k, v in zip(keys, values, strict=True)]
        journey.release(part)
        add(here.query, of_query)
        # What came home while this part was computed is added up first: its place is taken by the part after this one.
        if finish:
            finish()
        remote_keys, remote_values = journey.send_home(part, travelling, moves_home)
        finish = _finisher(journey, part, here, (of_key + remote_keys, of_value + remote_values), moves_home)
    if finish:
        finish()
    return grads


def _finisher(
    journey: "Journey", part: int, here: Tensors, pieces: tuple[list[Piece], list[Piece]], moves_home: bool
) -> Callable[[], None]:
    """Return what adds up the gradients of own keys and values, once those from other ranks have come home."""

    def finish() -> None:
        keys, values = journey.home(part) if moves_home else ([], [])
        add(here.key, pieces[0] + keys)
        add(here.value, pieces[1] + values)
        if moves_home:
            journey.link.consumed(part)

    return finish


class Journey:
    """The rows of one pass that travel: packed in parts, fetched one part ahead, their gradients sent home."""

    def __init__(self, inputs: Tensors, span: Span, task: Task) -> None:
        self._inputs, self._span = inputs, span
        query, key, value = inputs
        batch, length, kv_heads, _ = key.shape
        world_size = dist.get_world_size(task.group)
        self.parts = chunks(span, kv_heads, world_size, key.numel() + value.numel()) if task.in_parts else 1
        self._query_heads, self._key_heads = query.shape[2] // self.parts, kv_heads // self.parts
        self._keys, self._values = (grid(rows, length, span.rate) for rows in (key, value))
        self._offsets, self._columns = self._keys.shape[2], self._keys.shape[3] // self.parts
        self._batch, self._dims = batch, (key.shape[-1], value.shape[-1])
        widths = tuple(batch * self._offsets * self._columns * dim for dim in self._dims)
        self._widths = widths[0], widths[1]
        place = (batch, self._offsets, self._columns)
        self._of_keys, self._of_values = (*place, self._dims[0], 0), (*place, self._dims[1], widths[0])
        self.link = _link(span, key, self.parts, self._widths, task.group)
        count = min(2, self.parts)
        self._buffers = [key.new_empty((span.buffer_rows, sum(self._widths))) for _ in range(count)]

    def start(self) -> None:
        """Pack this rank's rows, let the others have them, and start to fetch theirs."""
        for part in range(self.parts):
            columns = slice(part * self._columns, (part + 1) * self._columns)
            for rows, place in ((self._keys, self._of_keys), (self._values, self._of_values)):
                _copy_grid(compact(self.link.packed[part], *place), rows[:, :, :, columns])
        self.link.publish()
        self.link.fetch(0, self._buffers[0])

    def parts_in_turn(self) -> Iterator[tuple[int, Tensors, Buffer]]:
        """Yield each part, this rank's own rows of it, and the buffer's keys and values; the next one is on its way."""
        for part in range(self.parts):
            if part + 1 < self.parts:
                self.link.fetch(part + 1, self._buffers[(part + 1) % 2])
            buffer, own = self._buffers[part % 2], self._span.own
            if own is not None:
                buffer[own.place : own.place + own.stop - own.start] = self.link.packed[part, own.start : own.stop]
            self.link.arrived(part)
            query, key, value = self._inputs
            heads, kv_heads = self.query_heads(part), self.key_heads(part)
            own_rows = Tensors(query[:, :, heads], key[:, :, kv_heads], value[:, :, kv_heads])
            yield part, own_rows, Buffer(buffer, self._of_keys, self._of_values)

    def release(self, part: int) -> None:
        """Note that the buffer of this part is free for the part after the next."""
        self.link.released(part)

    def query_heads(self, part: int) -> slice:
        """Return the query heads of a part."""
        return slice(part * self._query_heads, (part + 1) * self._query_heads)

    def key_heads(self, part: int) -> slice:
        """Return the kv heads of a part."""
        return slice(part * self._key_heads, (part + 1) * self._key_heads)

    def send_home(
        self, part: int, travelling: Sequence[tuple[range, Tensor, Tensor]], moves_home: bool
    ) -> tuple[list[Piece], list[Piece]]:
        """Send the gradients of buffered rows to their owners; return this rank's own, of keys and of values."""
        span = self._span
        places = [*span.wants, span.own] if span.own else [*span.wants]
        found: list[tuple[Transfer, Tensor, Tensor]] = []
        for place in places:
            rows = range(place.place, place.place + place.stop - place.start)
            found.append((place, self._gradient(rows, travelling, 1), self._gradient(rows, travelling, 2)))
        if moves_home:
            self.link.send_home(part, [entry for entry in found if entry[0] is not span.own])
        own = [entry for entry in found if entry[0] is span.own]
        keys = [self._piece(rows, place.start, 0) for place, rows, _ in own]
        values = [self._piece(rows, place.start, 1) for place, _, rows in own]
        return keys, values

    def home(self, part: int) -> tuple[list[Piece], list[Piece]]:
        """Return the gradients of this rank's keys and values that came from other ranks."""
        coming = self.link.home(part)
        keys = [self._piece(grads.keys, grads.start, 0) for grads in coming]
        return keys, [self._piece(grads.values, grads.start, 1) for grads in coming]

    def _gradient(self, rows: range, travelling: Sequence[tuple], which: int) -> Tensor:
        """Return the gradients of some rows of the buffer as (rows, elements), added up if several blocks see them."""
        seeing = [entry for entry in travelling if entry[0].start < rows.stop and rows.start < entry[0].stop]
        if len(seeing) == 1 and seeing[0][0].step == 1 and _holds(seeing[0][0], rows):
            keys = seeing[0][0]
            part = seeing[0][which][:, :, :, :, rows.start - keys.start : rows.stop - keys.start]
            return part.permute(4, 0, 1, 2, 3, 5).reshape(len(rows), -1).contiguous()
        total = self.link.packed.new_empty((len(rows), self._widths[which - 1]))
        width = self._dims[which - 1]
        heads = self._offsets * self._columns
        view = total.view(len(rows), self._batch, heads, width).transpose(0, 1)
        pieces = []
        for keys, *grads in seeing:
            # Of this block's keys, those within the rows: a progression again.
            first = max(0, -((keys.start - rows.start) // keys.step))
            some = grads[which - 1][:, :, :, :, first : -((keys.start - rows.stop) // keys.step)]
            some = some.flatten(2, 3).unsqueeze(2)
            pieces.append(Piece(some, None, _LONG, keys.step, 1, keys.start + first * keys.step - rows.start))
        add(view, pieces)
        return total

    def _piece(self, rows: Tensor, start: int, which: int) -> Piece:
        """Return gradients (rows, elements) as a piece of this rank's keys or values, from selected row `start` on."""
        rate = self._span.rate
        view = compact(rows, self._batch, self._offsets, self._columns, self._dims[which])
        return Piece(view, None, _LONG, rate, rate, start * rate)


_LONG = 1 << 30  # no shard is as long


def _link(span: Span, like: Tensor, parts: int, widths: tuple[int, int], group: dist.ProcessGroup | None) -> Link:
    if like.is_cuda and symmetric.is_wanted:
        needed = symmetric.SharedMemory.bytes_needed(span, parts, widths, like.dtype, dist.get_world_size(group))
        place = symmetric.workspace(needed, group, like.device)
        if place is not None:
            return symmetric.SharedMemory(place, span, like.dtype, parts, widths)
    return Messages(span, like, parts, widths, group)


def _local_blocks(plan: Plan) -> Iterator[Block]:
    for length, rate in plan.local:
        yield Block(length, rate, slice(None), None, plan.is_causal)


def _attend(inputs: Tensors, buffer: Buffer | None, block: Block, scale: float) -> list[Piece]:
    """Return the attention of one block as pieces of this rank's rows."""
    sights = _Sights(inputs, buffer, block)
    pieces = []
    for (part, axes), query, key, value in zip(calls(sights.extents), *sights.inputs(), strict=True):
        out, lse = kernels.attend(query, key, value, block.is_causal, scale)
        rows = as_grid(out, extents_of(part), axes)
        denominators = as_grid(lse.unsqueeze(-1), extents_of(part), axes).squeeze(-1)
        pieces.append(sights.piece(part, rows, denominators))
    return pieces


def _differentiate(
    inputs: Tensors, buffer: Buffer | None, result: Result, block: Block, scale: float
) -> tuple[list[Piece], list[Piece], list[Piece]]:
    """Return what one block contributes to the gradients of query, key and value, as pieces.

    Pieces of keys from the buffer lie where the block's keys do; only their rows matter.
    """
    sights = _Sights(inputs, buffer, block)
    found: tuple[list[Piece], list[Piece], list[Piece]] = ([], [], [])
    parts = calls(sights.extents)
    outs, lses, grad_outs = (sights.of(rows) for rows in (result.out, result.lse.unsqueeze(-1), result.grad_out))
    for (part, axes), query, key, value, out, lse, grad_out in zip(
        parts, *sights.inputs(), outs, lses, grad_outs, strict=True
    ):
        grads = kernels.attend_backward(query, key, value, out, lse.squeeze(-1), grad_out, block.is_causal, scale)
        key_heads = sights.key_heads if 3 in axes else None
        for pieces, grad, heads in zip(found, grads, (None, key_heads, key_heads), strict=True):
            pieces.append(sights.piece(part, as_grid(grad, extents_of(part, heads), axes)))
    if buffer is not None and len(parts) > 1:
        whole = [[_assembled(pieces, sights.extents)] for pieces in found[1:]]
        return found[0], whole[0], whole[1]
    return found


class _Sights:
    """What the kernels of one block take of the tensors that it reads."""

    def __init__(self, inputs: Tensors, buffer: Buffer | None, block: Block) -> None:
        self._inputs, self._buffer, self._block = inputs, buffer, block
        batch, rows, heads, _ = inputs.query.shape
        first, last, _ = block.segments.indices(rows // block.length)
        self._arguments = (block.length, block.rate, first, last)
        self.extents = (batch, last - first, min(block.rate, heads), max(1, heads // block.rate))
        self.key_heads = max(1, inputs.key.shape[2] // block.rate)

    def of(self, tensor: Tensor) -> list[Tensor]:
        """Return what the kernels take of a tensor (batch, local_length, heads, dim)."""
        return kernel_views(tensor, local, self._arguments, self.extents)

    def inputs(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return what the kernels take of query, key and value."""
        query, key, value = self._inputs
        keys = self._block.keys
        if self._buffer is None or keys is None:
            return self.of(query), self.of(key), self.of(value)
        some = (keys.start, keys.stop, keys.step)
        rows = self._buffer.rows
        return (
            self.of(query),
            kernel_views(rows, buffered, (*self._buffer.of_keys, *some), self.extents),
            kernel_views(rows, buffered, (*self._buffer.of_values, *some), self.extents),
        )

    def piece(self, part: Part, rows: Tensor, lse: Tensor | None = None) -> Piece:
        """Return a kernel's result as a piece of this rank's rows."""
        (b, _), (s, _), (o, _), (j, _) = part
        length, rate, first, _ = self._arguments
        return Piece(rows, lse, length, rate, rate, 0, (b, s + first, o, j))


def _assembled(pieces: list[Piece], extents: Extents) -> Piece:
    """Return pieces of buffered rows, of some batches, offsets or heads each, as one of all of them."""
    first = pieces[0].rows
    whole = first.new_empty((*extents, *first.shape[4:]))
    for piece in pieces:
        b, _, o, j = piece.origin
        batch, _, offsets, heads = piece.rows.shape[:4]
        whole[b : b + batch, :, o : o + offsets, j : j + heads] = piece.rows
    return pieces[0]._replace(rows=whole, origin=(0, 0, 0, 0))


def _whole(pieces: list[Piece]) -> tuple[Tensor, Tensor] | None:
    """Return the one piece there is as out and lse, if it is all rows of all heads in their order."""
    if len(pieces) != 1 or pieces[0].rate != 1:
        return None
    rows, lse = pieces[0].rows.squeeze(2), pieces[0].lse
    assert lse is not None
    out = rows.permute(0, 1, 3, 2, 4).flatten(1, 2)
    return out.contiguous(), lse.squeeze(2).permute(0, 1, 3, 2).flatten(1, 2)


def _base(rows: Tensor, lse: Tensor | None = None) -> Piece:
    """Return a tensor (batch, rows, heads, dim) as a piece of itself."""
    length = rows.shape[1]
    part = grid(lse.unsqueeze(-1), length, 1).squeeze(-1) if lse is not None else None
    return Piece(grid(rows, length, 1), part, length, 1, 1)


def _copy_grid(target: Tensor, source: Tensor) -> None:
    """Copy a grid row by row, as records hold them."""
    if source.shape[1:3] == (1, 1):
        heads = target[:, 0, 0].transpose(1, 2)
        add(heads, [_base(source[:, 0, 0].transpose(1, 2))])
    else:
        target.permute(4, 0, 1, 2, 3, 5).copy_(source.permute(4, 0, 1, 2, 3, 5))


def _holds(outer: range, inner: range) -> bool:
    return outer.start <= inner.start and inner.stop <= outer.stop
