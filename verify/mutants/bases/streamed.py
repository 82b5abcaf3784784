"""Streams: keys and values are gathered on one, attended to on another; each waits for what it needs.

A CPU has no streams: there everything happens in the order of the text.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.verify.mutants.bases.base_arguments import Call, accumulator, admit, heads_first


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    segment_lengths: list[int],
    dilation_rates: list[int],
    is_causal: bool = False,
    scale: float | None = None,
    sequence_length: int | None = None,
    group: Any = None,
    **unknown: Any,
) -> Tensor:
    """The contract's attention, of one branch that selects all rows, with a kv head for each head, of even shards."""
    call = admit(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group, unknown)
    return torch.as_tensor(_Attention.apply(query, key, value, call))


class Streams:
    """The stream of the caller, one for messages, one for products; on a CPU nothing."""

    kept: ClassVar[dict[torch.device, tuple[Any, Any]]] = {}

    def __init__(self, device: torch.device) -> None:
        self._streams: dict[str, Any] = {}
        if device.type == "cuda":
            if device not in self.kept:
                self.kept[device] = torch.cuda.Stream(device), torch.cuda.Stream(device)
            names = ("caller", "messages", "products")
            self._streams = dict(zip(names, (torch.cuda.current_stream(device), *self.kept[device]), strict=True))

    def wait(self, waiting: str, other: str) -> None:
        """What the one is given from now on begins after what the other was given before."""
        if self._streams:
            self._streams[waiting].wait_stream(self._streams[other])

    def on(self, name: str) -> AbstractContextManager[Any]:
        """Inside, that stream is the current one."""
        return torch.cuda.stream(self._streams[name]) if self._streams else nullcontext()


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, call: Call) -> Tensor:
        streams = Streams(query.device)
        streams.wait("messages", "caller")
        with streams.on("messages"):
            whole = torch.cat((key, value), dim=-1)
            gathered = gather(whole, call, streams)
        streams.wait("products", "messages")
        with streams.on("products"):
            q, k, v = _operands(query, gathered, key.shape[-1])
            scores = _scores(q, k, call)
            lse = torch.logsumexp(scores, dim=-1, keepdim=True)
            out = heads_first(torch.exp(scores - lse) @ v).to(query.dtype)
        streams.wait("caller", "products")
        ctx.call = call
        ctx.save_for_backward(query, gathered, out, lse, key)
        return out

    @staticmethod
    def backward(ctx: Any, grad_out: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        query, gathered, out, lse, key = ctx.saved_tensors
        call: Call = ctx.call
        streams, width = Streams(query.device), key.shape[-1]
        streams.wait("products", "caller")
        with streams.on("products"):
            q, k, v = _operands(query, gathered, width)
            upstream = heads_first(grad_out).to(q.dtype)
            weights = torch.exp(_scores(q, k, call) - lse)
            delta = (upstream * heads_first(out).to(q.dtype)).sum(dim=-1, keepdim=True)
            grad_scores = call.scale * weights * (upstream @ v.mT - delta)
            grad_query = heads_first(grad_scores @ k).to(query.dtype)
            grads = torch.cat((grad_scores.mT @ q, weights.mT @ upstream), dim=-1)
        streams.wait("messages", "products")
        with streams.on("messages"):
            summed = heads_first(add_up(grads, call, streams)).to(key.dtype)
            grad_key, grad_value = summed[..., :width].clone(), summed[..., width:].clone()
        streams.wait("caller", "messages")
        return grad_query, grad_key, grad_value, None


def gather(own: Tensor, call: Call, streams: Streams) -> Tensor:
    """All ranks' rows (batch, rows, heads, dim)."""
    if call.world_size == 1:
        return own
    received = [torch.empty_like(own) for _ in range(call.world_size)]
    gathering = dist.all_gather(received, own, group=call.group, async_op=True)
    with streams.on("messages"):
        gathering.wait()
    return torch.cat(received, dim=1)


def add_up(grads: Tensor, call: Call, streams: Streams) -> Tensor:
    """This rank's rows (batch, heads, rows, dim) of the sum over the ranks."""
    if call.world_size > 1:
        adding = dist.all_reduce(grads, group=call.group, async_op=True)
        with streams.on("messages"):
            adding.wait()
    rows = call.length // call.world_size
    return grads[:, :, call.rank * rows : (call.rank + 1) * rows]


def _operands(query: Tensor, gathered: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    q, both = (heads_first(tensor).to(accumulator(tensor.dtype)) for tensor in (query, gathered))
    return q, both[..., :width], both[..., width:]


def _scores(q: Tensor, k: Tensor, call: Call) -> Tensor:
    scores = call.scale * (q @ k.mT)
    if not call.is_causal:
        return scores
    first = call.rank * q.shape[2]
    rows = torch.arange(first, first + q.shape[2], device=q.device)
    keys = torch.arange(k.shape[2], device=q.device)
    return scores.masked_fill(keys > rows[:, None], float("-inf"))
