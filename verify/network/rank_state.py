"""What the network knows of each rank: its operations, and what it waits for."""

from __future__ import annotations

from dataclasses import dataclass, field

from attention_gate.verify.rank.network_messages import Contents, Post, Wait


@dataclass(eq=False)
class Operation:
    """A posted operation. ``through``: the transfer is complete; ``done``: its own rank need not wait for it."""

    rank: int
    post: Post
    contents: Contents | None = None
    done: bool = False
    through: bool = False
    order: int = 0
    partner: Transfer | None = None


@dataclass(eq=False)
class Transfer:
    """Operations that complete together: a send and its receive, or a collective's on all ranks of its group."""

    operations: list[Operation]
    collective: bool

    @property
    def order(self) -> int:
        """The place in the order of posting at which it became possible."""
        return max(operation.order for operation in self.operations)


@dataclass
class RankState:
    """What the network knows of a rank. ``state``: running, wait, poll, end or failed."""

    rank: int
    state: str = "running"
    wanted: tuple[int, ...] = ()
    operations: list[Operation] = field(default_factory=list)
    waits: list[Wait] = field(default_factory=list)
    unwaited: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()
    polled: bool = False  # something has moved since it asked, or nothing can
    news: dict[int, Contents] = field(default_factory=dict)
    sources: dict[int, int] = field(default_factory=dict)

    @property
    def missing(self) -> list[Operation]:
        """The operations that it waits for and that are not done."""
        return [self.operations[number] for number in self.wanted if not self.operations[number].done]
