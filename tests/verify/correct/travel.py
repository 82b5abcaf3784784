"""In which order a rank meets the blocks of the others, and how the gradients of its own come home."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.verify.target.layouts import contiguous

#: Of the styles' transports, those that pass blocks from neighbour to neighbour, and in which direction.
RINGS = {"ring": 1, "ring-back": -1}


def visits(transport: str, rank: int, size: int) -> list[int]:
    """The ranks whose blocks a rank computes on, in that order."""
    if transport in RINGS:
        return [(rank - RINGS[transport] * step) % size for step in range(size)]
    if transport == "both-ways":
        steps = [0] + [side * step for step in range(1, size) for side in (1, -1)]
        return [(rank + step) % size for step in steps[:size]]
    return list(range(size))


def hosts(transport: str, rank: int, size: int) -> list[int]:
    """The ranks that compute on a rank's block, in the order in which their gradients are added up."""
    if transport in RINGS:
        return [(rank + RINGS[transport] * step) % size for step in range(size)]
    return visits(transport, rank, size)


class Group:
    """A process group as ranks 0 to size - 1; alone if there is none."""

    def __init__(self, group: dist.ProcessGroup | None, length: int | None, local_length: int) -> None:
        ready = dist.is_initialized()
        self.group = group
        self.rank, self.size = (dist.get_rank(group), dist.get_world_size(group)) if ready else (0, 1)
        self.length = length if length is not None else local_length * self.size

    def positions(self, rank: int) -> Tensor:
        """The positions that a rank owns."""
        return torch.from_numpy(contiguous(rank, self.size, self.length))

    def swap(self, outgoing: dict[int, Tensor], incoming: dict[int, Tensor]) -> dict[int, Tensor]:
        """Send and receive at once; what is for this rank itself, or empty, does not travel."""
        messages = [(dist.irecv, buffer, peer) for peer, buffer in incoming.items()]
        messages += [(dist.isend, buffer.contiguous(), peer) for peer, buffer in outgoing.items()]
        batch = [
            dist.P2POp(operation, buffer, group=self.group, group_peer=peer)
            for operation, buffer, peer in messages
            if peer != self.rank and buffer.numel()
        ]
        for work in dist.batch_isend_irecv(batch) if batch else []:
            work.wait()
        return {peer: outgoing[peer] if peer == self.rank else buffer for peer, buffer in incoming.items()}

    def collect(self, own: Tensor, transport: str) -> dict[int, Tensor]:
        """Every rank's block (batch, heads, rows, dim), by rank."""
        blocks = {self.rank: own}
        if transport in RINGS:
            order = visits(transport, self.rank, self.size)
            for held, wanted in pairwise(order):
                blocks[wanted] = self._pass(blocks[held], wanted, RINGS[transport])
            return blocks
        incoming = {peer: self._like(own, peer) for peer in range(self.size)}
        return self.swap(dict.fromkeys(range(self.size), own), incoming)

    def bring_home(self, grads: dict[int, Tensor], transport: str, narrow: torch.dtype | None = None) -> Tensor:
        """The sum over all ranks of their gradients of this rank's block; ``narrow``: the dtype a partial sum has."""
        if transport in RINGS:
            order = visits(transport, self.rank, self.size)
            partial = _narrowed(grads[self.rank], narrow)
            for source in order[1:]:
                partial = _narrowed(self._pass(partial, source, RINGS[transport]) + grads[source], narrow)
            return self._pass(partial, self.rank, RINGS[transport]) if self.size > 1 else partial
        own = grads[self.rank]
        arrived = self.swap(grads, {peer: torch.empty_like(own) for peer in range(self.size)})
        return torch.stack([arrived[peer] for peer in hosts(transport, self.rank, self.size)]).sum(0)

    def _pass(self, tensor: Tensor, arriving: int, direction: int) -> Tensor:
        """Hand a block on to the next rank; what arrives from the previous one is the block of rank ``arriving``."""
        after, before = (self.rank + direction) % self.size, (self.rank - direction) % self.size
        return self.swap({after: tensor}, {before: self._like(tensor, arriving)})[before]

    def _like(self, tensor: Tensor, rank: int) -> Tensor:
        rows = len(contiguous(rank, self.size, self.length))
        return tensor.new_empty((*tensor.shape[:2], rows, tensor.shape[3]))


def _narrowed(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    return tensor if dtype is None else tensor.to(dtype).to(tensor.dtype)
