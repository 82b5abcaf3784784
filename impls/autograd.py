"""What Collective and Robust share as operators of autograd: tensors to rows and back, and what is kept between."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from attention_gate.impls.agreement import Call
from attention_gate.impls.block import accumulation_dtype, attend_block, attend_block_backward
from attention_gate.impls.fused import engine, first_calls, packed_engine
from attention_gate.impls.fused.engine import Result
from attention_gate.impls.fused.grid import usable
from attention_gate.impls.fused.packed_plan import PackedPlan
from attention_gate.impls.fused.pipeline import Task, Tensors
from attention_gate.impls.merge import merge_rows
from attention_gate.impls.optional_terms import sink_gradient, with_sink
from attention_gate.impls.path import choose
from attention_gate.impls.rows import as_rows
from attention_gate.impls.schedule import joint_works
from attention_gate.impls.zigzag import to_contiguous, to_zigzag


class Inputs(NamedTuple):
    """One rank's query, key and value as rows (batch, rows, dim), in the dtype that they came in."""

    query: Tensor
    key: Tensor
    value: Tensor


class Upstream(NamedTuple):
    """What the backward pass knows of query rows: grad_out (batch, rows, value_dim), lse and delta (batch, rows)."""

    grad_out: Tensor
    lse: Tensor
    delta: Tensor


class Scheme(NamedTuple):
    """A way to bring queries and keys together across ranks.

    `forward(inputs, call, out, lse)` merges all attention into out and lse, 0 and -inf at first; `backward(inputs,
    upstream, call, grads, moves_home)` adds to grads of the inputs; where `moves_home` is false, the gradients of keys
    and values are of no interest. All results are rows in the accumulation dtype. Fused kernels, where they serve, take
    rows of other ranks `in_parts`, by heads, or all at once.
    """

    forward: Callable[[Inputs, Call, Tensor, Tensor], None]
    backward: Callable[[Inputs, Upstream, Call, Inputs, bool], None]
    in_parts: bool


def attend_by(scheme: Scheme, query: Tensor, key: Tensor, value: Tensor, call: Call) -> tuple[Tensor, Tensor]:
    """Return out (batch, local_length, heads, value_dim) and lse (batch, heads, local_length), out differentiable."""
    has_joint = call.joint is not None
    task = choose(query, value, call.layout, call.is_zigzag, call.scores, call.group, scheme.in_parts, has_joint)
    if isinstance(task, Task):
        out, lse = _AttendFused.apply(query, key, value, call.sink, task)
    elif call.is_zigzag and not (call.layout.is_symmetric and call.scores.slopes is None):
        shards = (to_contiguous(tensor, call.layout, call.group) for tensor in (query, key, value))
        out, lse = _Attend.apply(*shards, call.sink, None, None, scheme, call)
        out = to_zigzag(out, call.layout, call.group)
        with torch.no_grad():
            lse = to_zigzag(lse.transpose(1, 2).unsqueeze(-1), call.layout, call.group).squeeze(-1).transpose(1, 2)
    else:
        out, lse = _Attend.apply(query, key, value, call.sink, *(call.joint or (None, None)), scheme, call)
    return out, lse


class _AttendFused(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, sink: Tensor | None, task: Task
    ) -> tuple[Tensor, Tensor]:
        inputs = Tensors(usable(query), usable(key), usable(value))
        with _exact(query.device), torch.cuda.device_of(query), first_calls.said("forward", inputs, task):
            out, lse = _passes(task).forward(inputs, task)
            if sink is not None:
                rows, flat = with_sink(as_rows(out), as_rows(lse), sink, out.shape[1])
                out, lse = rows.view(out.shape), flat.view(lse.shape)
        lse = lse.transpose(1, 2).contiguous()
        ctx.task = task
        ctx.save_for_backward(query, key, value, out, lse, sink)
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, _grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse, sink = ctx.saved_tensors
        if grad_out is None:  # The other ranks count on this one all the same.
            grad_out = torch.zeros_like(out)
        wanted = ctx.needs_input_grad[:3]
        inputs = Tensors(usable(query), usable(key), usable(value))
        result = Result(out, lse.transpose(1, 2), usable(grad_out))
        with _exact(query.device), torch.cuda.device_of(query), first_calls.said("backward", inputs, ctx.task):
            grads = _passes(ctx.task).backward(inputs, result, ctx.task, wanted[1] or wanted[2])
            grad_sink = None
            if sink is not None and ctx.needs_input_grad[3]:
                flat = as_rows(result.lse)
                grad_sink = sink_gradient(sink, flat, _delta(grad_out, out).view(flat.shape), out.shape[1])
        kept = (grad if is_wanted else None for grad, is_wanted in zip(grads, wanted, strict=True))
        return (*kept, grad_sink, None)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        sink: Tensor | None,
        joint_key: Tensor | None,
        joint_value: Tensor | None,
        scheme: Scheme,
        call: Call,
    ) -> tuple[Tensor, Tensor]:
        inputs = Inputs(as_rows(query), as_rows(key), as_rows(value))
        batch, local_length, heads, _ = query.shape
        dtype = accumulation_dtype(query.dtype)
        out = query.new_zeros((batch, local_length * heads, value.shape[-1]), dtype=dtype)
        lse = query.new_full((batch, local_length * heads), float("-inf"), dtype=dtype)
        with _exact(query.device):
            scheme.forward(inputs, call, out, lse)
            if joint_key is not None and joint_value is not None:
                _merge_joint(inputs.query, as_rows(joint_key), as_rows(joint_value), call, out, lse)
            out, lse = with_sink(out, lse, sink, local_length)
        out = out.unflatten(1, (local_length, heads)).to(query.dtype)
        lse = lse.unflatten(1, (local_length, heads)).transpose(1, 2).contiguous()
        ctx.scheme, ctx.call = scheme, replace(call, sink=None, joint=None)
        ctx.save_for_backward(query, key, value, out, lse, sink, joint_key, joint_value)
        ctx.mark_non_differentiable(lse)
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_out: Tensor | None, _grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        query, key, value, out, lse, sink, *joint = ctx.saved_tensors
        if grad_out is None:  # The other ranks count on this one all the same.
            grad_out = torch.zeros_like(out)
        inputs = Inputs(as_rows(query), as_rows(key), as_rows(value))
        dtype = accumulation_dtype(query.dtype)
        delta = as_rows((grad_out.to(dtype) * out.to(dtype)).sum(-1, keepdim=True)).squeeze(-1)
        # A row of lse -inf sees nothing, or nothing but scores of -inf: its probabilities are exp(-inf - 0) = 0.
        lse_rows = lse.masked_fill(lse.isneginf(), 0.0).transpose(1, 2).flatten(1, 2)
        grads = Inputs(*(torch.zeros_like(rows, dtype=dtype) for rows in inputs))
        wanted = ctx.needs_input_grad[:3]
        with _exact(query.device):
            upstream = Upstream(as_rows(grad_out), lse_rows, delta)
            ctx.scheme.backward(inputs, upstream, ctx.call, grads, wanted[1] or wanted[2])
            grad_joint = _joint_gradients(inputs.query, joint, upstream, grads.query, ctx.call)
        grad_sink = None
        if sink is not None and ctx.needs_input_grad[3]:
            grad_sink = sink_gradient(sink, lse.transpose(1, 2).flatten(1, 2), delta, query.shape[1])
        return (
            *(
                rows.view(tensor.shape).to(tensor.dtype) if is_wanted else None
                for rows, tensor, is_wanted in zip(grads, (query, key, value), wanted, strict=True)
            ),
            grad_sink,
            *grad_joint,
            None,
            None,
        )


def _passes(task: Task) -> ModuleType:
    """Return which module has the passes of a task."""
    return packed_engine if isinstance(task.plan, PackedPlan) else engine


#: So many products exist at a time.
_PRODUCTS_AT_A_TIME = 1 << 24


def _delta(grad_out: Tensor, out: Tensor) -> Tensor:
    """Return sum(grad_out * out) of (batch, rows, heads, dim) along the last dimension, in the accumulation dtype."""
    dtype = accumulation_dtype(out.dtype)
    rows = max(1, _PRODUCTS_AT_A_TIME // max(1, out[:, :1].numel()))
    parts = zip(grad_out.split(rows, 1), out.split(rows, 1), strict=True)
    return torch.cat([(grad.to(dtype) * some.to(dtype)).sum(-1) for grad, some in parts], 1)


def _merge_joint(query: Tensor, key: Tensor, value: Tensor, call: Call, out: Tensor, lse: Tensor) -> None:
    """Merge the attention to the keys that every rank has into that to all others."""
    for work in joint_works(call.layout, query.device, call.scores.needs_places):
        block_out, block_lse = attend_block(query, key, value, work, call.scores)
        merge_rows(out, lse, work.rows, block_out, block_lse)


def _joint_gradients(
    query: Tensor, joint: list[Tensor | None], upstream: Upstream, grad_query: Tensor, call: Call
) -> list[Tensor | None]:
    """Return what this rank's queries add to the gradients of the keys and values that every rank has."""
    key, value = joint
    if key is None or value is None:
        return [None, None]
    rows = as_rows(key), as_rows(value)
    grad_key, grad_value = (torch.zeros_like(each, dtype=grad_query.dtype) for each in rows)
    for work in joint_works(call.layout, query.device, call.scores.needs_places):
        attend_block_backward(query, *rows, *upstream, (grad_query, grad_key, grad_value), work, call.scores)
    return [grad_key.view(key.shape).to(key.dtype), grad_value.view(value.shape).to(value.dtype)]


def _exact(device: torch.device) -> AbstractContextManager:
    """Return a context in which matrix products keep their dtype, whatever autocast says outside."""
    if torch.is_autocast_enabled(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()
