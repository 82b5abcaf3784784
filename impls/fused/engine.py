"""One call through fused kernels: what own keys serve, then what spans ranks, part by part, each fetched ahead.

Heads are independent, so what spans ranks travels by parts of heads, and a kernel takes a part's whole segment at once:
results need no merging across ranks, and the memory for rows under way does not grow with their number. While a kernel
runs, the next part arrives and the gradients of the last one go home.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

from attention_gate.impls.fused import kernels
from attention_gate.impls.fused.combine import add, merge
from attention_gate.impls.fused.grid import (
    Extents,
    Part,
    Piece,
    as_grid,
    buffered,
    calls,
    extents_of,
    kernel_views,
    local,
)
from attention_gate.impls.fused.pipeline import Buffer, Pipeline, Task, Tensors, Travelling
from attention_gate.impls.fused.plan import Block, Plan, Span
from attention_gate.impls.fused.two_streams import TwoStreams

T = TypeVar("T")


class Result(NamedTuple):
    """The whole attention of this rank's queries, and the upstream gradient: lse (batch, local_length, heads)."""

    out: Tensor
    lse: Tensor
    grad_out: Tensor


class Gradients(NamedTuple):
    """What blocks contribute to the gradients of this rank's query, key and value."""

    query: list[Piece]
    key: list[Piece]
    value: list[Piece]


def forward(inputs: Tensors, task: Task) -> tuple[Tensor, Tensor]:
    """Return out (batch, local_length, heads, value_dim) and lse (batch, local_length, heads)."""
    plan = _plan(task)
    inputs = _for_query_heads(inputs, plan)
    span = plan.span
    pipeline = _started(inputs, span, task) if span else None
    blocks = _own_blocks(plan, span.blocks if span else ())
    attended = _at_once(inputs, blocks, lambda block: _attend(inputs, None, block, task))
    sums = _MergedRows(inputs, [piece for pieces in attended for piece in pieces])
    if span is None or pipeline is None:
        sums.merge_local()
        return sums.out, sums.lse
    if pipeline.parts > 1:
        sums.merge_local()
    with pipeline:
        for part in range(pipeline.parts):
            with pipeline.stream(part):
                own, buffer = pipeline.seen(part)
                found = [piece for block in _remote_blocks(span.blocks) for piece in _attend(own, buffer, block, task)]
                pipeline.release(part)
                sums.merge(found, pipeline, part)
    return sums.out, sums.lse


def backward(inputs: Tensors, result: Result, task: Task, moves_home: bool) -> Tensors:
    """Return the gradients of this rank's rows, in the inputs' dtype."""
    kv_heads = inputs.key.shape[2]
    plan = _plan(task)
    inputs = _for_query_heads(inputs, plan)
    span = plan.span
    pipeline = _started(inputs, span, task) if span else None
    blocks = _own_blocks(plan, span.backward_blocks if span else ())
    found = _at_once(inputs, blocks, lambda block: _differentiate(inputs, None, result, block, task))
    query, key, value = (
        _AddedRows(rows, [piece for gradients in found for piece in gradients[place]])
        for place, rows in enumerate(inputs)
    )
    if span is None or pipeline is None or pipeline.parts > 1:
        for rows in (query, key, value):
            rows.add_local()
    if span is not None and pipeline is not None:
        _backward_by_parts(pipeline, span, result, task, (query, key, value), moves_home)
    return Tensors(query.total, *(_for_key_heads(rows.total, kv_heads) for rows in (key, value)))


def _plan(task: Task) -> Plan:
    assert isinstance(task.plan, Plan)
    return task.plan


def _backward_by_parts(
    pipeline: Pipeline,
    span: Span,
    result: Result,
    task: Task,
    sums: tuple["_AddedRows", "_AddedRows", "_AddedRows"],
    moves_home: bool,
) -> None:
    """Add what blocks that span ranks contribute, part by part; what other ranks contribute comes home a part later."""
    query, key, value = sums
    finish: Callable[[], None] | None = None
    with pipeline:
        for part in range(pipeline.parts):
            with pipeline.stream(part):
                seen = Result(*(pipeline.of_query_heads(rows, part) for rows in result))
                mine, travelling = _differentiate_part(pipeline, part, span, seen, task)
                pipeline.release(part)
                query.add(mine, pipeline.of_query_heads(query.total, part))
            # What came home while this part was computed is added up first: the part after this one takes its place.
            if finish:
                finish()
            with pipeline.stream(part):
                keys, values = pipeline.send_home(part, travelling, moves_home)
            finish = partial(_add_from_home, pipeline, part, (key, value), (keys, values), moves_home)
        if finish:
            finish()


def _differentiate_part(
    pipeline: Pipeline, part: int, span: Span, result: Result, task: Task
) -> tuple[list[Piece], list[Travelling]]:
    """Return what the blocks of one part contribute to the gradient of query, and to those of rows of the buffer."""
    own, buffer = pipeline.seen(part)
    mine: list[Piece] = []
    travelling: list[Travelling] = []
    for block in _remote_blocks(span.backward_blocks):
        query, key, value = _differentiate(own, buffer, result, block, task)
        mine += query
        travelling += [
            Travelling(block.keys, k.rows, v.rows) for k, v in zip(key, value, strict=True) if block.keys is not None
        ]
    return mine, travelling


def _add_from_home(
    pipeline: Pipeline, part: int, sums: Sequence["_AddedRows"], own: Sequence[list[Piece]], moves_home: bool
) -> None:
    """Add up the gradients of own keys and values of one part, once those from other ranks have come home."""
    with pipeline.stream(part):
        coming = pipeline.home(part) if moves_home else ([], [])
        for rows, pieces, more in zip(sums, own, coming, strict=True):
            rows.add(pieces + more, pipeline.of_key_heads(rows.total, part))
        if moves_home:
            pipeline.transport.consumed(part)


class _MergedRows:
    """The attention of this rank's queries as it is put together: first the blocks of own keys."""

    def __init__(self, inputs: Tensors, pieces: list[Piece]) -> None:
        query, _, value = inputs
        batch, length, heads, _ = query.shape
        whole, self._local = _whole(pieces)
        self._is_begun = whole is not None
        if whole is not None:
            self.out = _rows_of(whole.rows).contiguous()
            assert whole.lse is not None
            self.lse = whole.lse.squeeze(2).transpose(1, 2).flatten(2, 3).transpose(1, 2)
        else:
            self.out = query.new_empty((batch, length, heads, value.shape[-1]))
            dtype = torch.promote_types(query.dtype, torch.float32)
            self.lse = torch.empty((batch, heads, length), dtype=dtype, device=query.device).transpose(1, 2)

    def merge_local(self) -> None:
        """Merge the pieces of the blocks of own keys; where there are none the attention is still to come."""
        if self._local:
            merge(self.out, self.lse, self._local, self._is_begun)
            self._local, self._is_begun = [], True

    def merge(self, pieces: list[Piece], pipeline: Pipeline, part: int) -> None:
        """Merge the pieces of one part, which comes once, with what is there of its heads."""
        if pieces or self._local or not self._is_begun:
            out, lse = (pipeline.of_query_heads(rows, part) for rows in (self.out, self.lse))
            merge(out, lse, [*self._local, *pieces], self._is_begun)


class _AddedRows:
    """A gradient of this rank's rows as it is added up: first the blocks of own keys."""

    def __init__(self, like: Tensor, pieces: list[Piece]) -> None:
        whole, self._local = _whole(pieces)
        self._is_begun = whole is not None
        self.total = _rows_of(whole.rows) if whole else torch.empty(like.shape, dtype=like.dtype, device=like.device)

    def add_local(self) -> None:
        """Add the pieces of the blocks of own keys; where there are none the gradient is still to come."""
        if self._local:
            add(self.total, self._local, self._is_begun)
            self._local, self._is_begun = [], True

    def add(self, pieces: list[Piece], total: Tensor) -> None:
        """Add the pieces of one part, which comes once, to its heads of the total."""
        if pieces or self._local or not self._is_begun:
            add(total, [*self._local, *pieces], self._is_begun)


def _for_query_heads(inputs: Tensors, plan: Plan) -> Tensors:
    """Return keys and values once for each query head, where those that share a kv head select different rows of it."""
    if not plan.repeats_keys:
        return inputs
    query, key, value = inputs
    times = query.shape[2] // key.shape[2]
    return Tensors(query, key.repeat_interleave(times, 2), value.repeat_interleave(times, 2))


def _for_key_heads(grad: Tensor, kv_heads: int) -> Tensor:
    """Return the gradient of a kv head as the sum of those of its query heads, where there is one for each of these."""
    times = grad.shape[2] // kv_heads
    if times == 1:
        return grad
    dtype = torch.promote_types(grad.dtype, torch.float32)
    return grad.unflatten(2, (kv_heads, times)).sum(3, dtype=dtype).to(grad.dtype)


def _started(inputs: Tensors, span: Span, task: Task) -> Pipeline:
    """Return a pipeline under way: rows travel while branches inside the shard are computed."""
    pipeline = Pipeline(inputs, span, task)
    pipeline.start()
    return pipeline


def _own_blocks(plan: Plan, of_span: Sequence[Block]) -> list[Block]:
    """Return the blocks of which this rank has the keys: branches inside the shard, and the span's own part.

    They are computed for all heads at once, while rows of other ranks are on their way. One that selects all rows comes
    first: its result, made on the caller's stream, may become that of all.
    """
    blocks = [Block(length, rate, slice(None), None, plan.is_causal) for length, rate in plan.local]
    return sorted(blocks + [block for block in of_span if block.keys is None], key=lambda block: block.rate)


def _remote_blocks(blocks: Sequence[Block]) -> list[Block]:
    """Return the blocks whose keys are rows of the buffer."""
    return [block for block in blocks if block.keys is not None]


def _at_once(inputs: Tensors, blocks: Sequence[Block], compute: Callable[[Block], T]) -> list[T]:
    """Return what is computed of each block, on two streams: each fills the processors that the others leave idle.

    First all blocks of the one and then all of the other, as the host needs long to change streams.
    """
    streams = TwoStreams(inputs.query.device, len(blocks))
    found: dict[int, T] = {}
    try:
        for first in range(min(2, len(blocks))):
            with streams.of(first):
                found |= {number: compute(blocks[number]) for number in range(first, len(blocks), 2)}
    finally:
        streams.join()
    return [found[number] for number in range(len(blocks))]


def _attend(inputs: Tensors, buffer: Buffer | None, block: Block, task: Task) -> list[Piece]:
    """Return the attention of one block as pieces of this rank's rows."""
    sights = _Sights(inputs, buffer, block)
    pieces = []
    for (part, axes), query, key, value in zip(calls(sights.extents), *sights.inputs(), strict=True):
        out, lse = kernels.attend(query, key, value, block.is_causal, task.scale, task.backend)
        rows = as_grid(out, extents_of(part), axes)
        denominators = as_grid(lse.unsqueeze(-1), extents_of(part), axes).squeeze(-1)
        pieces.append(sights.piece(part, rows, denominators))
    return pieces


def _differentiate(inputs: Tensors, buffer: Buffer | None, result: Result, block: Block, task: Task) -> Gradients:
    """Return what one block contributes to the gradients of query, key and value, as pieces.

    Pieces of keys from the buffer lie where the block's keys do; only their rows matter.
    """
    sights = _Sights(inputs, buffer, block)
    found = Gradients([], [], [])
    parts = calls(sights.extents)
    outs, lses, grad_outs = (sights.of(rows) for rows in (result.out, result.lse.unsqueeze(-1), result.grad_out))
    for (part, axes), query, key, value, out, lse, grad_out in zip(
        parts, *sights.inputs(), outs, lses, grad_outs, strict=True
    ):
        given = query, key, value, out, lse.squeeze(-1), grad_out
        grads = kernels.attend_backward(*given, block.is_causal, task.scale, task.backend)
        for pieces, grad in zip(found, grads, strict=True):
            pieces.append(sights.piece(part, as_grid(grad, extents_of(part), axes)))
    if buffer is not None and len(parts) > 1:
        return Gradients(found.query, *([_assembled(pieces, sights.extents)] for pieces in found[1:]))
    return found


class _Sights:
    """What the kernels of one block take of the tensors that it reads."""

    def __init__(self, inputs: Tensors, buffer: Buffer | None, block: Block) -> None:
        self._inputs, self._buffer, self._block = inputs, buffer, block
        batch, rows, heads, _ = inputs.query.shape
        first, last, _ = block.segments.indices(rows // block.length)
        self._arguments = (block.length, block.rate, first, last)
        self.extents = (batch, last - first, min(block.rate, heads), max(1, heads // block.rate))

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
    return pieces[0]._replace(rows=whole)


def _whole(pieces: list[Piece]) -> tuple[Piece | None, list[Piece]]:
    """Return the piece that has all rows of all heads, if one has, and the others.

    Of the blocks of own keys, one that selects all rows is computed by one kernel.
    """
    whole = next((piece for piece in pieces if piece.rate == 1), None)
    return whole, [piece for piece in pieces if piece is not whole]


def _rows_of(rows: Tensor) -> Tensor:
    """Return the rows of a whole piece as (batch, rows, heads, dim)."""
    return rows.squeeze(2).permute(0, 1, 3, 2, 4).flatten(1, 2)
