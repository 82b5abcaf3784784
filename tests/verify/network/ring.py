"""A compact ring that is right: keys and values pass from neighbour to neighbour, their gradients travel with them.

The ways it communicates are methods of `Ring`, so that a mistake is one method that is changed.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class Ring:
    """One rank's place in the ring, and how tensors go round."""

    def __init__(self, group: Any) -> None:
        self.group = group
        alone = not dist.is_initialized()
        self.rank, self.size = (0, 1) if alone else (dist.get_rank(group), dist.get_world_size(group))
        self.right, self.left = (self.rank + 1) % self.size, (self.rank - 1) % self.size

    def prepare(self) -> None:
        """What is done before anything else."""

    def keep(self, step: int, travelling: list[Tensor]) -> None:
        """What the forward pass keeps of a block that it has used."""

    def kept(self, step: int, travelling: list[Tensor]) -> list[Tensor]:
        """The block that the backward pass uses at that step."""
        return travelling

    def start(self, outgoing: list[Tensor], incoming: list[Tensor]) -> list[Any]:
        """Begin to pass tensors on; returns the handles."""
        receives = [dist.P2POp(dist.irecv, tensor, group=self.group, group_peer=self.left) for tensor in incoming]
        sends = [dist.P2POp(dist.isend, tensor, group=self.group, group_peer=self.right) for tensor in outgoing]
        return dist.batch_isend_irecv(receives + sends)

    def finish(self, handles: list[Any], outgoing: list[Tensor], incoming: list[Tensor]) -> list[Tensor]:
        """End what was begun; returns what came in."""
        for handle in handles:
            handle.wait()
        return incoming


def run(ring: Ring, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """The attention of the contract on that ring."""
    return _Attend.apply(query, key, value, ring, _Rows(ring, query, **options))


def attend(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """The contract, on a ring without a mistake."""
    return run(Ring(group), query, key, value, **options)


class _Rows:
    """Which rank owns which positions, and who sees whom."""

    def __init__(
        self,
        ring: Ring,
        query: Tensor,
        *,
        segment_lengths: list[int],
        dilation_rates: list[int],
        is_causal: bool = False,
        scale: float | None = None,
        sequence_length: int | None = None,
    ) -> None:
        length = query.shape[1] * ring.size if sequence_length is None else sequence_length
        self.shards = torch.tensor_split(torch.arange(length), ring.size)
        self.own = self.shards[ring.rank]
        self.heads = torch.arange(query.shape[2])
        self.branches = list(zip(segment_lengths, dilation_rates, strict=True))
        self.is_causal = is_causal
        self.scale = query.shape[-1] ** -0.5 if scale is None else scale

    def multiplicity(self, source: int) -> Tensor:
        """(heads, own rows, the source's rows)."""
        i, j = self.own[None, :, None], self.shards[source][None, None, :]
        total = torch.zeros(len(self.heads), i.shape[1], j.shape[2])
        for w, r in self.branches:
            offset = (self.heads % r)[:, None, None]
            total += ((i % w) % r == offset) & ((j % w) % r == offset) & (i // w == j // w)
        return total * (j <= i) if self.is_causal else total

    def scores(self, query: Tensor, key: Tensor, source: int) -> Tensor:
        """(batch, heads, own rows, the source's rows), the logarithm of the multiplicity added."""
        groups = query.shape[2] // key.shape[2]
        scores = self.scale * torch.einsum("bihd,bjhd->bhij", query, key.repeat_interleave(groups, 2))
        return scores + self.multiplicity(source).to(scores.dtype).log()


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor, ring: Ring, rows: _Rows) -> Tensor:
        wide = torch.float64 if query.dtype == torch.float64 else torch.float32
        ring.prepare()
        q = query.to(wide)
        batch, own, heads, _ = query.shape
        out = q.new_zeros(batch, heads, own, value.shape[-1])
        lse = q.new_full((batch, heads, own), float("-inf"))
        travelling = [key.contiguous(), value.contiguous()]
        for step in range(ring.size):
            source = (ring.rank - step) % ring.size
            if step + 1 < ring.size:
                incoming = _empty(travelling, rows, (source - 1) % ring.size)
                handles = ring.start(travelling, incoming)
            ring.keep(step, travelling)
            k, v = (tensor.to(wide) for tensor in travelling)
            scores = rows.scores(q, k, source)
            total = torch.logaddexp(lse, scores.logsumexp(-1))
            shift = total.masked_fill(total.isneginf(), 0.0)
            block = torch.einsum("bhij,bjhd->bhid", (scores - shift[..., None]).exp(), _repeat(v, heads))
            out = out * (lse - shift).exp()[..., None] + block
            lse = total
            if step + 1 < ring.size:
                travelling = ring.finish(handles, travelling, incoming)
        result = out.transpose(1, 2).to(query.dtype)
        ctx.save_for_backward(query, key, value, result, lse)
        ctx.ring, ctx.rows, ctx.wide = ring, rows, wide
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        query, key, value, result, lse = ctx.saved_tensors
        ring, rows, wide = ctx.ring, ctx.rows, ctx.wide
        heads, groups = query.shape[2], query.shape[2] // key.shape[2]
        q, do = query.to(wide), grad.to(wide)
        delta = (do * result.to(wide)).sum(-1).transpose(1, 2)[..., None]
        shift = lse.masked_fill(lse.isneginf(), 0.0)[..., None]
        dq = torch.zeros_like(q)
        travelling = [key.contiguous(), value.contiguous()]
        grads = [torch.zeros_like(tensor, dtype=wide) for tensor in travelling]
        for step in range(ring.size):
            source = (ring.rank - step) % ring.size
            before = (source - 1) % ring.size
            if step + 1 < ring.size:
                incoming = _empty(travelling, rows, before)
                handles = ring.start(travelling, incoming)
            k, v = (tensor.to(wide) for tensor in ring.kept(step, travelling))
            p = (rows.scores(q, k, source) - shift).exp()
            ds = p * (torch.einsum("bihd,bjhd->bhij", do, _repeat(v, heads)) - delta)
            dq += rows.scale * torch.einsum("bhij,bjhd->bihd", ds, _repeat(k, heads))
            grads[0] += rows.scale * _fold(torch.einsum("bhij,bihd->bjhd", ds, q), groups)
            grads[1] += _fold(torch.einsum("bhij,bihd->bjhd", p, do), groups)
            if ring.size > 1:
                arriving = _empty(grads, rows, before)
                if step + 1 < ring.size:
                    travelling = ring.finish(handles, travelling, incoming)
                grads = ring.finish(ring.start(grads, arriving), grads, arriving)
        return dq.to(query.dtype), grads[0].to(key.dtype), grads[1].to(value.dtype), None, None


def _empty(travelling: list[Tensor], rows: _Rows, source: int) -> list[Tensor]:
    """Buffers for the block of that rank."""
    length = len(rows.shards[source])
    return [tensor.new_empty(tensor.shape[0], length, *tensor.shape[2:]) for tensor in travelling]


def _repeat(tensor: Tensor, heads: int) -> Tensor:
    return tensor.repeat_interleave(heads // tensor.shape[2], 2)


def _fold(tensor: Tensor, groups: int) -> Tensor:
    return tensor.unflatten(2, (-1, groups)).sum(3)
