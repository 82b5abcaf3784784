"""Exchanges of tensors on a query's device, called instead of an attention: right ones, and with one mistake each."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def exchange(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """Collectives and messages, with the right results asserted."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    mine = query.new_full((3,), float(rank))
    parts = [torch.empty_like(mine) for _ in range(size)]
    waiting = dist.all_gather(parts, mine, group=group, async_op=True)
    assert bool(torch.isnan(parts[0]).all()), "nothing is there before the wait"
    waiting.wait()
    assert [int(part[1]) for part in parts] == list(range(size))
    total = mine.clone()
    dist.all_reduce(total, group=group)
    assert total.tolist() == [float(sum(range(size)))] * 3
    flat = mine.new_empty(size)
    dist.all_to_all_single(
        flat, torch.arange(float(size), dtype=mine.dtype, device=mine.device) + 10 * rank, group=group
    )
    assert flat.tolist() == [10.0 * other + rank for other in range(size)]
    received, wide = mine.new_empty(2), torch.tensor([True, False], device=mine.device)
    bits = torch.empty_like(wide)
    hops = [
        dist.P2POp(dist.irecv, received, group=group, group_peer=(rank - 1) % size),
        dist.P2POp(dist.irecv, bits, group=group, group_peer=(rank - 1) % size),
        dist.P2POp(dist.isend, mine[1:], group=group, group_peer=(rank + 1) % size),
        dist.P2POp(dist.isend, wide, group=group, group_peer=(rank + 1) % size),
    ]
    for handle in dist.batch_isend_irecv(hops):
        handle.wait()
    assert received.tolist() == [float((rank - 1) % size)] * 2
    assert bits.tolist() == [True, False]
    return query[..., :1].expand(*query.shape[:-1], value.shape[-1]).clone()


def unbatched(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """One hop around a ring, the send before the receive and neither in a batch: NCCL never ends it."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    sending = dist.isend(key.contiguous(), group=group, group_dst=(rank + 1) % size)
    receiving = dist.irecv(torch.empty_like(key), group=group, group_src=(rank - 1) % size)
    sending.wait()
    receiving.wait()
    return query[..., :1].expand(*query.shape[:-1], value.shape[-1]).clone()


def overwrites(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """A buffer is written to while it is sent."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    outgoing, incoming = query.new_ones(4), query.new_empty(4)
    hops = [
        dist.P2POp(dist.irecv, incoming, group=group, group_peer=(rank - 1) % size),
        dist.P2POp(dist.isend, outgoing, group=group, group_peer=(rank + 1) % size),
    ]
    handles = dist.batch_isend_irecv(hops)
    outgoing.zero_()
    for handle in handles:
        handle.wait()
    return query[..., :1].expand(*query.shape[:-1], value.shape[-1]).clone()
