"""Mistakes of communication, each one method of the compact ring that is changed."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from tests.verify.network.ring import Ring, run


class _UseBeforeWait(Ring):
    """M33: what came in is used, and only then waited for."""

    def finish(self, handles: list[Any], outgoing: list[Tensor], incoming: list[Tensor]) -> list[Tensor]:
        used = [tensor.clone() for tensor in incoming]
        super().finish(handles, outgoing, incoming)
        return used


class _OverwriteBeforeWait(Ring):
    """M34: the send buffers are filled anew once the receives are through, before the sends are."""

    def finish(self, handles: list[Any], outgoing: list[Tensor], incoming: list[Tensor]) -> list[Tensor]:
        for handle in handles[: len(incoming)]:
            handle.wait()
        received = [tensor.clone() for tensor in incoming]
        for tensor in outgoing:
            tensor.mul_(0.5)
        for handle in handles[len(incoming) :]:
            handle.wait()
        return received

    def start(self, outgoing: list[Tensor], incoming: list[Tensor]) -> list[Any]:
        outgoing[:] = [tensor.clone() for tensor in outgoing]  # the caller's own tensors are left alone
        return super().start(outgoing, incoming)


_blocks: dict[tuple[int, int], list[Tensor]] = {}


class _BlocksOnTheModule(Ring):
    """M35: the blocks of the forward pass are kept in buffers of the module, for the backward pass of any call."""

    def keep(self, step: int, travelling: list[Tensor]) -> None:
        _blocks[self.rank, step] = [tensor.clone() for tensor in travelling]

    def kept(self, step: int, travelling: list[Tensor]) -> list[Tensor]:
        kept = _blocks[self.rank, step]
        fits = all(a.shape == b.shape for a, b in zip(kept, travelling, strict=True))
        return kept if fits else travelling


class _LocalRankAsPeer(Ring):
    """M36: the rank in the group is taken for the rank in the world."""

    def start(self, outgoing: list[Tensor], incoming: list[Tensor]) -> list[Any]:
        receives = [dist.P2POp(dist.irecv, tensor, self.left, group=self.group) for tensor in incoming]
        sends = [dist.P2POp(dist.isend, tensor, self.right, group=self.group) for tensor in outgoing]
        return dist.batch_isend_irecv(receives + sends)


class _BlockingSendFirst(Ring):
    """M37: every rank sends, and receives only then."""

    def start(self, outgoing: list[Tensor], incoming: list[Tensor]) -> list[Any]:
        for tensor in outgoing:
            dist.send(tensor, group=self.group, group_dst=self.right)
        for tensor in incoming:
            dist.recv(tensor, group=self.group, group_src=self.left)
        return []


class _WorldBarrier(Ring):
    """M38: a barrier of the whole world, though only some ranks take part."""

    def prepare(self) -> None:
        if self.size > 1:
            dist.barrier()


class _KeepsEveryBlock(Ring):
    """M39: every block that came in is kept until the end."""

    def __init__(self, group: Any) -> None:
        super().__init__(group)
        self.all: list[Tensor] = []

    def finish(self, handles: list[Any], outgoing: list[Tensor], incoming: list[Tensor]) -> list[Tensor]:
        self.all += super().finish(handles, outgoing, incoming)
        return incoming


class _Unbatched(Ring):
    """isend K, isend V, irecv K, irecv V, one by one."""

    def start(self, outgoing: list[Tensor], incoming: list[Tensor]) -> list[Any]:
        sends = [dist.isend(tensor, group=self.group, group_dst=self.right) for tensor in outgoing]
        return sends + [dist.irecv(tensor, group=self.group, group_src=self.left) for tensor in incoming]


class _WaitsForTheLast(Ring):
    """Of several handles only the last is waited for."""

    def finish(self, handles: list[Any], outgoing: list[Tensor], incoming: list[Tensor]) -> list[Tensor]:
        return super().finish(handles[-1:], outgoing, incoming)


class _ValueIntoKey(Ring):
    """The receives are posted the other way round: what arrives first goes into the second buffer."""

    def start(self, outgoing: list[Tensor], incoming: list[Tensor]) -> list[Any]:
        return super().start(outgoing, incoming[::-1])


class _ToldApartByTags(Ring):
    """Keys and values are distinguished by tags, and received in the other order."""

    def start(self, outgoing: list[Tensor], incoming: list[Tensor]) -> list[Any]:
        tagged = [*enumerate(incoming)][::-1]
        receives = [
            dist.P2POp(dist.irecv, tensor, group=self.group, group_peer=self.left, tag=k) for k, tensor in tagged
        ]
        sends = [
            dist.P2POp(dist.isend, tensor, group=self.group, group_peer=self.right, tag=k)
            for k, tensor in enumerate(outgoing)
        ]
        return dist.batch_isend_irecv(receives + sends)


class _NobodyElseCasts(Ring):
    """A value for all is announced by a broadcast, each rank naming itself as its root."""

    def prepare(self) -> None:
        if self.size > 1:
            dist.broadcast(torch.ones(2), group_src=self.rank, group=self.group)


class _GathersUnwaited(Ring):
    """An asynchronous collective whose handle is dropped."""

    def prepare(self) -> None:
        if self.size > 1:
            parts = [torch.empty(3) for _ in range(self.size)]
            dist.all_gather(parts, torch.ones(3), group=self.group, async_op=True)


class _ReducesBehindTheHop(Ring):
    """Rank 0 reduces before it posts its hop, the others after they have posted theirs: on GPUs both wait forever."""

    def start(self, outgoing: list[Tensor], incoming: list[Tensor]) -> list[Any]:
        if self.rank == 0:
            dist.all_reduce(torch.ones(1), group=self.group)
        handles = super().start(outgoing, incoming)
        if self.rank != 0:
            dist.all_reduce(torch.ones(1), group=self.group)
        return handles


class _RankedSizes(Ring):
    """Each rank scatters parts of a size of its own."""

    def prepare(self) -> None:
        if self.size > 1:
            rows = 1 + self.rank
            dist.reduce_scatter(torch.empty(rows), [torch.ones(rows) for _ in range(self.size)], group=self.group)


class _OneUnwaited(Ring):
    """The last send's handle is never waited for."""

    def finish(self, handles: list[Any], outgoing: list[Tensor], incoming: list[Tensor]) -> list[Tensor]:
        return super().finish(handles[:-1], outgoing, incoming)


class _DifferentCollectives(Ring):
    """Rank 0 of the group gathers where the others reduce."""

    def prepare(self) -> None:
        if self.size > 1:
            tensor = torch.ones(2)
            if self.rank == 0:
                dist.all_gather([torch.empty(2) for _ in range(self.size)], tensor, group=self.group)
            else:
                dist.all_reduce(tensor, group=self.group)


class _NeverReceived(Ring):
    """One more message than anybody receives, under a tag of its own."""

    def prepare(self) -> None:
        if self.size > 1:
            dist.isend(torch.ones(3), group=self.group, group_dst=self.right, tag=7)


class _ToItself(Ring):
    """Own rows are sent too, to the rank itself."""

    def prepare(self) -> None:
        if self.size > 1:
            own = [
                dist.P2POp(dist.isend, torch.ones(1), group=self.group, group_peer=self.rank),
                dist.P2POp(dist.irecv, torch.ones(1), group=self.group, group_peer=self.rank),
            ]
            for handle in dist.batch_isend_irecv(own):
                handle.wait()


class _OtherDtype(Ring):
    """What is sent as int32 is received as float32: as many bytes."""

    def prepare(self) -> None:
        if self.size > 1:
            send = dist.isend(torch.ones(2, dtype=torch.int32), group=self.group, group_dst=self.right)
            dist.recv(torch.empty(2), group=self.group, group_src=self.left)
            send.wait()


class _OutsideTheGroup(Ring):
    """Every rank uses a group that rank 0 of the world is alone in."""

    def prepare(self) -> None:
        if self.size > 1:
            alone = dist.group.WORLD if dist.get_rank() == 0 else dist.GroupMember.NON_GROUP_MEMBER
            dist.all_reduce(torch.ones(1), group=alone, async_op=True)


class _Wasteful(Ring):
    """Keys and values travel in float64 whatever they are."""

    def start(self, outgoing: list[Tensor], incoming: list[Tensor]) -> list[Any]:
        self.wide = [torch.empty_like(tensor, dtype=torch.float64) for tensor in incoming]
        return super().start([tensor.double() for tensor in outgoing], self.wide)

    def finish(self, handles: list[Any], outgoing: list[Tensor], incoming: list[Tensor]) -> list[Tensor]:
        for tensor, wide in zip(incoming, super().finish(handles, outgoing, self.wide), strict=True):
            tensor.copy_(wide)
        return incoming


def use_before_wait(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_UseBeforeWait(group), query, key, value, **options)


def overwrite_before_wait(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_OverwriteBeforeWait(group), query, key, value, **options)


def blocks_on_the_module(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_BlocksOnTheModule(group), query, key, value, **options)


def local_rank_as_peer(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_LocalRankAsPeer(group), query, key, value, **options)


def blocking_send_first(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_BlockingSendFirst(group), query, key, value, **options)


def world_barrier(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_WorldBarrier(group), query, key, value, **options)


def keeps_every_block(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_KeepsEveryBlock(group), query, key, value, **options)


def unbatched(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_Unbatched(group), query, key, value, **options)


def waits_for_the_last(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_WaitsForTheLast(group), query, key, value, **options)


def value_into_key(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_ValueIntoKey(group), query, key, value, **options)


def one_unwaited(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_OneUnwaited(group), query, key, value, **options)


def different_collectives(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_DifferentCollectives(group), query, key, value, **options)


def never_received(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_NeverReceived(group), query, key, value, **options)


def to_itself(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_ToItself(group), query, key, value, **options)


def other_dtype(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_OtherDtype(group), query, key, value, **options)


def outside_the_group(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_OutsideTheGroup(group), query, key, value, **options)


def wasteful(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_Wasteful(group), query, key, value, **options)


def distinguished_by_tags(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_ToldApartByTags(group), query, key, value, **options)


def nobody_else_casts(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_NobodyElseCasts(group), query, key, value, **options)


def gathers_unwaited(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_GathersUnwaited(group), query, key, value, **options)


def reduces_behind_the_hop(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_ReducesBehindTheHop(group), query, key, value, **options)


def ranked_sizes(query: Tensor, key: Tensor, value: Tensor, *, group: Any = None, **options: Any) -> Tensor:
    return run(_RankedSizes(group), query, key, value, **options)
