"""One call through fused kernels: local branches, then what spans ranks, part by part, each part fetched ahead.

Heads are independent, so what spans ranks travels by parts of heads, and a kernel takes a part's whole segment at once:
results need no merging across ranks, and the memory for rows under way does not grow with their number. While a kernel
runs, the next part arrives and the gradients of the last one go home.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

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
from attention_gate.impls.fused.pipeline import Buffer, Pipeline, Task, Tensors, base
from attention_gate.impls.fused.plan import Block, Plan, Span


class Result(NamedTuple):
    """The whole attention of this rank's queries, and the upstream gradient: lse (batch, local_length, heads)."""

    out: Tensor
    lse: Tensor
    grad_out: Tensor


def forward(inputs: Tensors, task: Task) -> tuple[Tensor, Tensor]:
    """Return out (batch, local_length, heads, value_dim) and lse (batch, local_length, heads)."""
    query, _, value = inputs
    batch, length, heads, _ = query.shape
    dtype = torch.promote_types(query.dtype, torch.float32)
    lse = torch.empty((batch, heads, length), dtype=dtype, device=query.device).transpose(1, 2)
    span = task.plan.span
    pipeline = _started(inputs, span, task) if span else None
    pieces = [piece for block in _local_blocks(task.plan) for piece in _attend(inputs, None, block, task.scale)]
    if pipeline is None and (whole := _whole(pieces)) is not None:
        return whole
    out = query.new_empty((batch, length, heads, value.shape[-1]))
    if span is None or pipeline is None:
        merge(out, lse, pieces)
        return out, lse
    if pipeline.parts > 1 and pieces:
        merge(out, lse, pieces)
        pieces = [base(out, lse)]
    with pipeline:
        for part in range(pipeline.parts):
            with pipeline.stream(part):
                own, buffer = pipeline.seen(part)
                blocks = pipeline.blocks_in_order(part, span.blocks)
                found = [piece for block in blocks for piece in _attend(own, buffer, block, task.scale)]
                pipeline.release(part)
                heads_of_part = pipeline.query_heads(part)
                here = out[:, :, heads_of_part], lse[:, :, heads_of_part]
                before = [base(*here)] if pipeline.parts > 1 and pieces else pieces
                merge(*here, [*before, *found])
    return out, lse


def backward(inputs: Tensors, result: Result, task: Task, moves_home: bool) -> Tensors:
    """Return the gradients of this rank's rows, in the inputs' dtype."""
    span = task.plan.span
    pipeline = _started(inputs, span, task) if span else None
    found: tuple[list[Piece], list[Piece], list[Piece]] = ([], [], [])
    for block in _local_blocks(task.plan):
        for total, pieces in zip(found, _differentiate(inputs, None, result, block, task.scale), strict=True):
            total.extend(pieces)
    grads = Tensors(*(torch.empty(rows.shape, dtype=rows.dtype, device=rows.device) for rows in inputs))
    if span is None or pipeline is None:
        for grad, pieces in zip(grads, found, strict=True):
            add(grad, pieces)
        return grads
    has_base = pipeline.parts > 1 and bool(found[0])
    if has_base:
        for grad, pieces in zip(grads, found, strict=True):
            add(grad, pieces)
        found = ([], [], [])
    finish: Callable[[], None] | None = None
    with pipeline:
        for part in range(pipeline.parts):
            with pipeline.stream(part):
                own, buffer = pipeline.seen(part)
                query_heads, key_heads = pipeline.query_heads(part), pipeline.key_heads(part)
                here = Tensors(grads.query[:, :, query_heads], grads.key[:, :, key_heads], grads.value[:, :, key_heads])
                seen = Result(*(rows[:, :, query_heads] for rows in result))
                before = tuple([base(grad)] for grad in here) if has_base else found
                of_query, of_key, of_value = (list(pieces) for pieces in before)
                travelling: list[tuple[range, Tensor, Tensor]] = []
                for block in pipeline.blocks_in_order(part, span.backward_blocks):
                    queries, keys, values = _differentiate(own, buffer, seen, block, task.scale)
                    of_query += queries
                    if block.keys is None:
                        of_key, of_value = of_key + keys, of_value + values
                    else:
                        travelling += [(block.keys, k.rows, v.rows) for k, v in zip(keys, values, strict=True)]
                pipeline.release(part)
                add(here.query, of_query)
            # What came home while this part was computed is added up first: the part after this one takes its place.
            if finish:
                finish()
            with pipeline.stream(part):
                remote_keys, remote_values = pipeline.send_home(part, travelling, moves_home)
            finish = _finisher(pipeline, part, here, (of_key + remote_keys, of_value + remote_values), moves_home)
        if finish:
            finish()
    return grads


def _finisher(
    pipeline: Pipeline, part: int, here: Tensors, pieces: tuple[list[Piece], list[Piece]], moves_home: bool
) -> Callable[[], None]:
    """Return what adds up the gradients of own keys and values, once those from other ranks have come home."""

    def finish() -> None:
        with pipeline.stream(part):
            keys, values = pipeline.home(part) if moves_home else ([], [])
            add(here.key, pieces[0] + keys)
            add(here.value, pieces[1] + values)
            if moves_home:
                pipeline.transport.consumed(part)

    return finish


def _started(inputs: Tensors, span: Span, task: Task) -> Pipeline:
    """Return a pipeline under way: rows travel while branches inside the shard are computed."""
    pipeline = Pipeline(inputs, span, task)
    pipeline.start()
    return pipeline


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
        for pieces, grad in zip(found, grads, strict=True):
            pieces.append(sights.piece(part, as_grid(grad, extents_of(part), axes)))
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


def _whole(pieces: list[Piece]) -> tuple[Tensor, Tensor] | None:
    """Return the one piece there is as out and lse, if it is all rows of all heads in their order."""
    if len(pieces) != 1 or pieces[0].rate != 1:
        return None
    rows, lse = pieces[0].rows.squeeze(2), pieces[0].lse
    assert lse is not None
    out = rows.permute(0, 1, 3, 2, 4).flatten(1, 2)
    return out.contiguous(), lse.squeeze(2).permute(0, 1, 3, 2).flatten(1, 2)
