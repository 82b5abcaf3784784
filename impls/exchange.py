"""What goes over the wire, and nothing else does: one exchange of a hop, one exchange of all with all, and verdicts.

Peers are ranks of the group, never of the world, so that a group may be any subset of the world.
"""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass
class Flight:
    """Messages under way; their buffers live, and must be neither read nor written, until `wait` returns."""

    operations: list[dist.Work]
    buffers: list[Tensor]  # received, sent

    def wait(self) -> Tensor:
        """Return the received rows once both messages are through, and let go of the buffers."""
        for operation in self.operations:
            operation.wait()
        received = self.buffers[0]
        self.operations.clear()
        self.buffers.clear()
        return received


def start_hop(
    outgoing: Tensor, destination: int, incoming: Tensor, source: int, group: dist.ProcessGroup | None
) -> Flight:
    """Start sending `outgoing` to one rank and receiving `incoming` from another, as one batch.

    Both sides know the sizes from the plan: what is empty is not sent, and its receiver does not wait for it. Batched,
    because separate sends and receives around a ring never complete under NCCL.
    """
    messages = [(dist.irecv, incoming, source), (dist.isend, outgoing, destination)]
    batch = [
        dist.P2POp(operation, buffer, group=group, group_peer=peer)
        for operation, buffer, peer in messages
        if buffer.numel()
    ]
    return Flight(dist.batch_isend_irecv(batch) if batch else [], [incoming, outgoing])


def all_to_all(
    outgoing: Tensor, send_rows: list[int], receive_rows: list[int], group: dist.ProcessGroup | None
) -> Tensor:
    """Return what all ranks send to this one: `outgoing` and the result are rows, sorted by rank, counted by rank."""
    incoming = outgoing.new_empty((sum(receive_rows), *outgoing.shape[1:]))
    dist.all_to_all_single(incoming, outgoing, receive_rows, send_rows, group=group)
    return incoming


def members_of(group: dist.ProcessGroup | None) -> dist.ProcessGroup:
    """Return the group, that of all ranks for None."""
    members = group if group is not None else dist.group.WORLD
    assert members is not None
    return members


def gather_bytes(payload: bytes, group: dist.ProcessGroup | None, device: torch.device) -> list[bytes]:
    """Return every rank's payload, all of one length.

    An all-to-all of equal parts: gloo passes an all-gather on from rank to rank, which takes longer.
    """
    world_size, size = dist.get_world_size(group), len(payload)
    outgoing = torch.tensor(list(payload) * world_size, dtype=torch.uint8, device=device)
    incoming = torch.empty_like(outgoing)
    dist.all_to_all_single(incoming, outgoing, group=group)
    received = bytes(incoming.tolist())
    return [received[start : start + size] for start in range(0, len(received), size)]
