"""Which operations belong together, and which of them a delivery model lets complete now."""

from __future__ import annotations

from collections import defaultdict, deque
from dataclasses import dataclass, field

from attention_gate.verify.network import misuse
from attention_gate.verify.network.rank_state import Operation, Transfer
from attention_gate.verify.rank.network_messages import ANY, POINT_TO_POINT, Post
from attention_gate.verify.world.finding import Finding


@dataclass
class _Channel:
    sends: deque[Operation] = field(default_factory=deque)
    receives: deque[Operation] = field(default_factory=deque)


class Matcher:
    """Pairs operations in the order of posting: messages by sender, receiver and tag, collectives by their count."""

    def __init__(self, model: str) -> None:
        self.model = model
        self._posted = 0
        self._channels: dict[tuple[str, int, int, int], _Channel] = defaultdict(_Channel)
        self._any: list[Operation] = []
        self._rounds: dict[tuple[str, int], dict[int, Operation]] = defaultdict(dict)
        self._counts: dict[tuple[str, int], int] = defaultdict(int)
        self._possible: list[Transfer] = []
        self._queues: dict[tuple[str, int], deque[list[Operation]]] = defaultdict(deque)

    def add(self, operation: Operation) -> Finding | None:
        """Take in an operation; returns what is wrong with it beside its partner, if anything."""
        post = operation.post
        operation.order = self._posted
        self._posted += 1
        if self.model == "stream":
            queue = self._queues[post.group, operation.rank]
            if queue and queue[-1][-1].post.batch == post.batch:
                queue[-1].append(operation)
            else:
                queue.append([operation])
        if post.kind not in POINT_TO_POINT:
            return self._add_collective(operation)
        if post.peer == operation.rank:
            return misuse.to_itself(operation.rank, post)
        if post.peer == ANY:
            self._any.append(operation)
            return None
        return self._add_message(operation)

    def ready(self) -> list[Transfer]:
        """The transfers that could complete now, in the order of posting."""
        found = [transfer for transfer in self._possible if all(map(self.is_active, transfer.operations))]
        for receive in self._any:
            for (group, _, receiver, tag), channel in sorted(self._channels.items()):
                if (group, receiver, tag) == (receive.post.group, receive.rank, receive.post.tag) and channel.sends:
                    found.append(Transfer([channel.sends[0], receive], False))
        return sorted(found, key=lambda transfer: transfer.order)

    def completed(self, transfer: Transfer) -> None:
        """Record a completed transfer; operations that waited for it become active."""
        if transfer in self._possible:
            self._possible.remove(transfer)
        else:  # a receive from any rank, matched only now
            send, receive = transfer.operations
            self._any.remove(receive)
            self._channels[self._key(send.rank, send.post)].sends.popleft()
            send.partner = receive.partner = transfer
        for operation in transfer.operations:
            queue = self._queues.get((operation.post.group, operation.rank))
            while queue and all(one.through for one in queue[0]):
                queue.popleft()

    def is_active(self, operation: Operation) -> bool:
        """Whether the operation runs, which under "stream" takes that all earlier batches are through."""
        return self.model != "stream" or any(
            operation is one for one in self._queues[operation.post.group, operation.rank][0]
        )

    def holding_up(self, operation: Operation) -> list[Operation]:
        """The operations of the same rank that must be through before this one runs."""
        if self.is_active(operation):
            return []
        return [one for one in self._queues[operation.post.group, operation.rank][0] if not one.through]

    def absent(self, operation: Operation) -> list[int]:
        """The ranks that have not posted their part of the operation."""
        if operation.partner is not None:
            return []
        post = operation.post
        if post.kind in POINT_TO_POINT:
            return [post.peer] if post.peer != ANY else [rank for rank in post.ranks if rank != operation.rank]
        for posted in self._rounds.values():
            if posted.get(operation.rank) is operation:
                return [rank for rank in post.ranks if rank not in posted]
        return []

    def _key(self, rank: int, post: Post) -> tuple[str, int, int, int]:
        tag = 0 if self.model == "stream" else post.tag  # NCCL ignores tags
        sender, receiver = (rank, post.peer) if post.kind == "send" else (post.peer, rank)
        return post.group, sender, receiver, tag

    def _add_message(self, operation: Operation) -> Finding | None:
        channel = self._channels[self._key(operation.rank, operation.post)]
        own, others = channel.sends, channel.receives
        if operation.post.kind == "receive":
            own, others = others, own
        if not others:
            own.append(operation)
            return None
        other = others.popleft()
        send, receive = (operation, other) if operation.post.kind == "send" else (other, operation)
        self._pair([send, receive], collective=False)
        return misuse.mismatch(send.rank, send.post, receive.rank, receive.post, [one.post for one in others])

    def _add_collective(self, operation: Operation) -> Finding | None:
        post = operation.post
        count = self._counts[post.group, operation.rank]
        self._counts[post.group, operation.rank] += 1
        posted = self._rounds[post.group, count]
        for other in posted.values():
            if finding := misuse.different_collectives(count, operation.rank, post, other.rank, other.post):
                return finding
        posted[operation.rank] = operation
        if len(posted) == len(post.ranks):
            del self._rounds[post.group, count]
            self._pair([posted[rank] for rank in post.ranks], collective=True)
        return None

    def _pair(self, operations: list[Operation], *, collective: bool) -> None:
        transfer = Transfer(operations, collective)
        for operation in operations:
            operation.partner = transfer
        self._possible.append(transfer)
