"""The steps of a ring: a block passes on to the next rank, and two parts of a row's attention are merged."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.verify.mutants.bases.base_arguments import Call


class Flight(NamedTuple):
    """A block on its way to the next rank, and one on its way here."""

    works: list[Any]
    incoming: Tensor
    outgoing: Tensor

    def wait(self) -> Tensor:
        """The block that arrived."""
        for work in self.works:
            work.wait()
        return self.incoming


def pass_on(outgoing: Tensor, rows: int, call: Call, step: int = 1) -> Flight:
    """Start to send a block to the next rank of the ring and to receive one of that many rows from the previous one."""
    incoming = outgoing.new_empty((*outgoing.shape[:2], rows, outgoing.shape[3]))
    following, previous = (call.rank + step) % call.world_size, (call.rank - step) % call.world_size
    operations = []
    if outgoing.numel():
        operations.append(dist.P2POp(dist.isend, outgoing, group=call.group, group_peer=following))
    if incoming.numel():
        operations.append(dist.P2POp(dist.irecv, incoming, group=call.group, group_peer=previous))
    return Flight(dist.batch_isend_irecv(operations) if operations else [], incoming, outgoing)


def merge(out: Tensor, lse: Tensor, block_out: Tensor, block_lse: Tensor) -> tuple[Tensor, Tensor]:
    """The attention to two disjoint multisets of keys: the mean of both, weighted by their denominators."""
    top = torch.maximum(lse, block_lse)
    top = top.masked_fill(top == float("-inf"), 0.0)  # nothing seen on either side
    running, block = torch.exp(lse - top), torch.exp(block_lse - top)
    total = running + block
    safe = total.masked_fill(total == 0.0, 1.0)
    merged = out * (running / safe)[..., None] + block_out * (block / safe)[..., None]
    return merged, top + torch.log(total)


def split(kv: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
    """A block's keys and values, one for each query head, in the accumulator's dtype."""
    each = kv.to(q.dtype).repeat_interleave(q.shape[1] // kv.shape[1], dim=1)
    return each[..., : q.shape[-1]], each[..., q.shape[-1] :]
