"""Everything that torch.distributed offers, called instead of an attention, with the right results asserted."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as functional
import torch.distributed.nn.functional as differentiable
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh


def everything(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """All collectives and ways to send, in a group."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    ranks = range(size)
    mine = torch.full((2,), float(rank), dtype=query.dtype)

    parts = [torch.empty_like(mine) for _ in ranks]
    dist.all_gather(parts, mine, group=group)
    assert [int(part[0]) for part in parts] == list(ranks)

    whole = mine.new_empty(2 * size)
    gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    gather_single(whole, mine, group=group)
    assert whole[::2].tolist() == [float(r) for r in ranks]

    own = torch.empty_like(mine)
    scatter_single = getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor
    scatter_single(own, torch.arange(2.0 * size, dtype=query.dtype), group=group)
    assert own.tolist() == [size * 2.0 * rank, size * (2.0 * rank + 1)]
    dist.reduce_scatter(own, [mine + r for r in ranks], group=group)
    assert own.tolist() == [sum(ranks) + size * rank] * 2

    total = mine.clone()
    dist.all_reduce(total, group=group)
    assert total.tolist() == [float(sum(ranks))] * 2
    largest = mine.to(torch.bfloat16)
    dist.all_reduce(largest, op=dist.ReduceOp.MAX, group=group)
    assert largest.tolist() == [size - 1.0] * 2

    uneven = [torch.full((r + 1,), float(rank), dtype=query.dtype) for r in ranks]
    flat = mine.new_empty(size * (rank + 1))
    dist.all_to_all_single(flat, torch.cat(uneven), [rank + 1] * size, [r + 1 for r in ranks], group=group)
    assert flat[:: rank + 1].tolist() == [float(r) for r in ranks]

    received = mine.clone()
    dist.broadcast(received, group_src=size - 1, group=group)
    assert received.tolist() == [size - 1.0] * 2
    summed = mine.clone()
    dist.reduce(summed, group_dst=0, group=group)
    assert rank or summed.tolist() == [float(sum(ranks))] * 2
    dist.gather(mine, parts if rank == 0 else None, group_dst=0, group=group)
    dist.scatter(own, [mine + 10 * r for r in ranks] if rank == 0 else None, group_src=0, group=group)
    assert own.tolist() == [10.0 * rank] * 2
    dist.barrier(group=group)
    objects: list[Any] = [None] * size
    dist.all_gather_object(objects, {"rank": rank}, group=group)
    assert [each["rank"] for each in objects] == list(ranks)

    if rank % 2 == 0 and rank + 1 < size:
        dist.send(mine, group=group, group_dst=rank + 1)
    elif rank % 2:
        dist.recv(own, group=group, group_src=rank - 1)
        assert own.tolist() == [rank - 1.0] * 2
    right, left = (rank + 1) % size, (rank - 1) % size
    hops = [
        dist.P2POp(dist.irecv, own, group=group, group_peer=left),
        dist.P2POp(dist.isend, mine, group=group, group_peer=right),
    ]
    for handle in dist.batch_isend_irecv(hops):
        handle.wait()
    assert own.tolist() == [float(left)] * 2

    waiting = dist.all_gather(parts, mine, group=group, async_op=True)
    waiting.wait()
    assert parts[left].tolist() == [float(left)] * 2

    members = group if group is not None else dist.group.WORLD
    assert functional.all_gather_tensor(mine, 0, members)[2 * left].item() == left
    assert functional.all_reduce(mine, "sum", members).tolist() == [float(sum(ranks))] * 2
    assert functional.reduce_scatter_tensor(torch.cat([mine] * size), "sum", 0, members)[0].item() == sum(ranks)
    exchanged = functional.all_to_all_single(torch.arange(float(size)), None, None, members)
    assert exchanged.tolist() == [float(rank)] * size
    return query[..., :1].expand(*query.shape[:-1], value.shape[-1]).clone()


def uneven(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """An exchange of tensors of several sizes, which gloo does not take."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    arrived = [torch.empty(rank + 1) for _ in range(size)]
    dist.all_to_all(arrived, [torch.full((r + 1,), float(rank)) for r in range(size)], group=group)
    assert [part[0].item() for part in arrived] == list(range(size))
    return query[..., :1].expand(*query.shape[:-1], value.shape[-1]).clone()


def early(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """What a gather brings, looked at before the wait: nothing is there."""
    parts = [query.new_empty(2) for _ in range(dist.get_world_size(group))]
    waiting = dist.all_gather(parts, query.new_ones(2), group=group, async_op=True)
    assert torch.isnan(parts[0]).all()
    waiting.wait()
    assert parts[0].tolist() == [1.0, 1.0]
    return query[..., :1].expand(*query.shape[:-1], value.shape[-1]).clone()


def meshes(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Tensor:
    """A mesh of two by two, and gradients through torch's own collectives."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("row", "column"))
    total = torch.full((1,), float(dist.get_rank()))
    dist.all_reduce(total, group=mesh.get_group("column"))
    assert total.item() == {0: 1.0, 1: 1.0, 2: 5.0, 3: 5.0}[dist.get_rank()]
    mine = torch.ones(2, requires_grad=True)
    sum(differentiable.all_gather(mine))[0].backward()
    assert mine.grad.tolist() == [4.0, 0.0]
    return query[..., :1].expand(*query.shape[:-1], value.shape[-1]).clone()


def polls(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """A receive that is asked again and again whether it is done."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    own = query.new_empty(2)
    receive = dist.irecv(own, group=group, group_src=(rank - 1) % size)
    send = dist.isend(query.new_full((2,), rank), group=group, group_dst=(rank + 1) % size)
    while not receive.is_completed():
        pass
    send.wait()
    assert own.tolist() == [(rank - 1) % size] * 2
    return query[..., :1].expand(*query.shape[:-1], value.shape[-1]).clone()


def polls_for_ever(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """A receive that nobody sends to, asked again and again."""
    receive = dist.irecv(query.new_empty(2), group=group, group_src=(dist.get_rank(group) + 1) % 2)
    while not receive.is_completed():
        pass
    return query


def from_anybody(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """Rank 0 hears from all others in whatever order they come, and takes what came first for rank 1's."""
    if dist.get_rank() == 0:
        heard = []
        for _ in range(dist.get_world_size() - 1):
            tensor = torch.empty(1)
            dist.recv(tensor)
            heard.append(int(tensor))
        if heard[0] != 1:
            raise AssertionError(f"heard {heard}")
    else:
        dist.send(torch.full((1,), float(dist.get_rank())), 0)
    return query[..., :1].expand(*query.shape[:-1], value.shape[-1]).clone()


def strided(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """A gapped slice handed to a collective, which gloo reduces wrongly without a word."""
    dist.all_reduce(torch.ones(2, 3)[:, 0], group=group)
    return query


def one_rank_raises(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    """Rank 1 raises while the others wait for it."""
    if dist.get_rank() == 1:
        raise KeyError("broken")
    dist.barrier()
    return query
