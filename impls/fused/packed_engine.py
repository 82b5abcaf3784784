"""A call of packed sequences through fused kernels: each query once, against all keys that it sees.

Results go where they belong without a merge. Gradients of keys and values, to which several kernels and ranks may
contribute, are added up in float32 and rounded once.
"""

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from attention_gate.impls.fused import packed_kernels
from attention_gate.impls.fused.engine import Result
from attention_gate.impls.fused.grid import Piece, buffered, grid
from attention_gate.impls.fused.packed_plan import PackedPlan
from attention_gate.impls.fused.pipeline import Buffer, Pipeline, Task, Tensors, Travelling
from attention_gate.impls.fused.sequences import Sequences


class _Share(NamedTuple):
    """What a kernel or a rank adds to a gradient: (batch, rows, kv_heads, dim), of runs of rows in their order."""

    runs: tuple[range, ...]
    rows: Tensor


def forward(inputs: Tensors, task: Task) -> tuple[Tensor, Tensor]:
    """Return out (batch, local_length, heads, value_dim) and lse (batch, local_length, heads)."""
    plan = _plan(task)
    batch, length, heads, _ = inputs.query.shape
    pipeline = _started(inputs, task)
    found = [_attend(inputs, call, task) for call in plan.own]
    if found and plan.own[0].queries == (range(length),):
        out, lse = found[0]
    else:
        out = inputs.query.new_empty((batch, length, heads, inputs.value.shape[-1]))
        lse = torch.empty((batch, heads, length), dtype=_sum_dtype(out), device=out.device).transpose(1, 2)
        _fill(out, plan.blind, 0.0)
        _fill(lse, plan.blind, float("-inf"))
        for call, (some_out, some_lse) in zip(plan.own, found, strict=True):
            _put(out, call.queries, some_out)
            _put(lse, call.queries, some_lse)
    if pipeline is None:
        return out, lse
    with pipeline:
        for part in range(pipeline.parts):
            with pipeline.stream(part):
                own, buffer = pipeline.seen(part)
                found = [_attend(_of_buffer(own, buffer), call, task) for call in plan.of_buffer]
                pipeline.release(part)
                for call, (some_out, some_lse) in zip(plan.of_buffer, found, strict=True):
                    _put(pipeline.of_query_heads(out, part), call.queries, some_out)
                    _put(pipeline.of_query_heads(lse, part), call.queries, some_lse)
    return out, lse


def backward(inputs: Tensors, result: Result, task: Task, moves_home: bool) -> Tensors:
    """Return the gradients of this rank's rows, in the inputs' dtype."""
    plan = _plan(task)
    pipeline = _started(inputs, task)
    found = [_differentiate(inputs, result, call, task) for call in plan.own]
    shares = [
        [_Share(call.keys, grads[place]) for call, grads in zip(plan.own, found, strict=True)] for place in (1, 2)
    ]
    if found and plan.own[0].queries == (range(inputs.query.shape[1]),):
        grad_query = found[0].query
    else:
        grad_query = torch.empty_like(inputs.query, memory_format=torch.contiguous_format)
        _fill(grad_query, plan.blind, 0.0)
        for call, grads in zip(plan.own, found, strict=True):
            _put(grad_query, call.queries, grads.query)
    if pipeline is None:
        return Tensors(grad_query, *(_total(each, rows) for each, rows in zip(shares, inputs[1:], strict=True)))
    totals = [torch.empty_like(rows, memory_format=torch.contiguous_format) for rows in inputs[1:]]
    finish: Callable[[], None] | None = None
    with pipeline:
        for part in range(pipeline.parts):
            with pipeline.stream(part):
                own, buffer = pipeline.seen(part)
                seen = Result(*(pipeline.of_query_heads(rows, part) for rows in result))
                tensors = _of_buffer(own, buffer)
                found = [_differentiate(tensors, seen, call, task) for call in plan.of_buffer]
                pipeline.release(part)
                for call, grads in zip(plan.of_buffer, found, strict=True):
                    _put(pipeline.of_query_heads(grad_query, part), call.queries, grads.query)
                travelling = _travelling(plan.of_buffer, found, tensors)
            # What came home while this part was computed is added up first: the part after this one takes its place.
            if finish:
                finish()
            with pipeline.stream(part):
                pieces = pipeline.send_home(part, travelling, moves_home)
            finish = partial(_add_from_home, pipeline, part, totals, shares, pieces, moves_home)
        if finish:
            finish()
    return Tensors(grad_query, *totals)


def _add_from_home(
    pipeline: Pipeline,
    part: int,
    totals: list[Tensor],
    shares: list[list[_Share]],
    own: tuple[list[Piece], list[Piece]],
    moves_home: bool,
) -> None:
    """Add up the gradients of keys and values of one part, once those from other ranks have come home."""
    with pipeline.stream(part):
        coming = pipeline.home(part) if moves_home else ([], [])
        for total, local, mine, theirs in zip(totals, shares, own, coming, strict=True):
            of_part = [_Share(share.runs, pipeline.of_key_heads(share.rows, part)) for share in local]
            target = pipeline.of_key_heads(total, part)
            target.copy_(_total([*of_part, *map(_share, mine), *map(_share, theirs)], target))
        if moves_home:
            pipeline.transport.consumed(part)


def _share(piece: Piece) -> _Share:
    rows = piece.rows[:, 0, 0].transpose(1, 2)
    return _Share((range(piece.start, piece.start + rows.shape[1]),), rows)


def _travelling(calls: Iterable[Sequences], grads: Iterable[Tensors], seen: Tensors) -> list[Travelling]:
    """Return the gradients of all rows of the buffer."""
    count = seen.key.shape[1]
    if not count:
        return []
    both = list(zip(calls, grads, strict=True))
    keys = _total([_Share(call.keys, grad.key) for call, grad in both], seen.key)
    values = _total([_Share(call.keys, grad.value) for call, grad in both], seen.value)
    return [Travelling(range(count), grid(keys, count, 1), grid(values, count, 1))]


def _total(shares: list[_Share], like: Tensor) -> Tensor:
    """Return the sum of what is added to a gradient, shaped as `like` and in its dtype."""
    if len(shares) == 1 and shares[0].runs == (range(like.shape[1]),):
        return shares[0].rows
    total = torch.zeros(like.shape, dtype=_sum_dtype(like), device=like.device)
    for share in shares:
        start = 0
        for run in share.runs:
            total.narrow(1, run.start, len(run)).add_(share.rows.narrow(1, start, len(run)))
            start += len(run)
    return total.to(like.dtype)


def _attend(inputs: Tensors, call: Sequences, task: Task) -> tuple[Tensor, Tensor]:
    """Return out and lse (batch, rows, heads) of the queries of one kernel."""
    query, (key, value) = _taken(inputs.query, call.queries), (_taken(rows, call.keys) for rows in inputs[1:])
    out, lse = packed_kernels.attend(query, key, value, call, task.scale, task.softcap, task.backend)
    return out, lse.transpose(1, 2)


def _differentiate(inputs: Tensors, result: Result, call: Sequences, task: Task) -> Tensors:
    """Return what one kernel contributes to the gradients of its queries and of its keys and values."""
    query, (key, value) = _taken(inputs.query, call.queries), (_taken(rows, call.keys) for rows in inputs[1:])
    out, lse, grad_out = (_taken(rows, call.queries) for rows in result)
    given = query, key, value, out, lse.transpose(1, 2), grad_out
    return Tensors(*packed_kernels.attend_backward(*given, call, task.scale, task.softcap, task.backend))


def _of_buffer(own: Tensors, buffer: Buffer) -> Tensors:
    """Return own queries, and keys and values of all rows of the buffer, as (batch, rows, heads, dim)."""
    places = (buffer.of_keys, buffer.of_values)
    key, value = (buffered(buffer.rows, *place, 0, len(buffer.rows), 1)[:, 0, 0].transpose(1, 2) for place in places)
    return Tensors(own.query, key, value)


def _taken(rows: Tensor, runs: tuple[range, ...]) -> Tensor:
    """Return runs of rows one after the other: a view if there is one run."""
    some = [rows.narrow(1, run.start, len(run)) for run in runs]
    return some[0] if len(some) == 1 else torch.cat(some, 1)


def _put(target: Tensor, runs: tuple[range, ...], rows: Tensor) -> None:
    """Write rows, which lie one after the other, to runs of rows of the target."""
    start = 0
    for run in runs:
        target.narrow(1, run.start, len(run)).copy_(rows.narrow(1, start, len(run)))
        start += len(run)


def _fill(target: Tensor, runs: tuple[range, ...], value: float) -> None:
    for run in runs:
        target.narrow(1, run.start, len(run)).fill_(value)


def _started(inputs: Tensors, task: Task) -> Pipeline | None:
    """Return a pipeline under way, if rows travel: meanwhile sequences of own keys are computed."""
    span = _plan(task).span
    if span is None:
        return None
    pipeline = Pipeline(inputs, span, task)
    pipeline.start()
    return pipeline


def _plan(task: Task) -> PackedPlan:
    assert isinstance(task.plan, PackedPlan)
    return task.plan


def _sum_dtype(like: Tensor) -> torch.dtype:
    return torch.promote_types(like.dtype, torch.float32)
