"""The record of a run: what each rank posted and waited for, which transfers completed, and how much went where."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from attention_gate.verify.rank.network_messages import Post, Wait


@dataclass(frozen=True)
class Message:
    """A completed transfer. ``operations`` are (rank, number); ``moved`` bytes by (sender, receiver)."""

    kind: str
    operations: tuple[tuple[int, int], ...]
    moved: dict[tuple[int, int], int]
    stage: str


@dataclass(frozen=True)
class Load:
    """What one rank sent and received."""

    bytes_sent: int = 0
    bytes_received: int = 0
    messages_sent: int = 0
    messages_received: int = 0


@dataclass(frozen=True)
class Waiting:
    """A rank of a deadlock: the rank that it waits for, whether it is on the cycle, and in lines in which calls."""

    rank: int
    peer: int
    on_cycle: bool
    lines: tuple[str, ...]


@dataclass
class Trace:
    """All that happened in one run, the same for the same program and schedule.

    ``stopped`` are the ranks that still waited when it ended; ``waiting`` says of a deadlock who waited for whom.
    """

    size: int
    model: str
    logs: list[list[Post | Wait]] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    stopped: tuple[int, ...] = ()
    waiting: tuple[Waiting, ...] = ()

    def __post_init__(self) -> None:
        self.logs = self.logs or [[] for _ in range(self.size)]

    def posted(self, rank: int, post: Post) -> None:
        """Add an operation of that rank."""
        self.logs[rank].append(post)

    def waited(self, rank: int, wait: Wait) -> None:
        """Add a wait of that rank."""
        self.logs[rank].append(wait)

    def completed(self, message: Message) -> None:
        """Add a transfer."""
        self.messages.append(message)

    def posts(self, rank: int) -> list[Post]:
        """A rank's operations, by their number."""
        return [entry for entry in self.logs[rank] if isinstance(entry, Post)]

    def waits(self, rank: int) -> list[Wait]:
        """A rank's waits in their order."""
        return [entry for entry in self.logs[rank] if isinstance(entry, Wait) and entry.numbers]

    def load(self, rank: int, stages: Iterable[str] = ("forward", "backward")) -> Load:
        """Bytes and messages of one rank in some stages, exactly."""
        stages = tuple(stages)
        moved = [item for message in self.messages if message.stage in stages for item in message.moved.items()]
        sent = [n for (source, _), n in moved if source == rank]
        received = [n for (_, destination), n in moved if destination == rank]
        return Load(sum(sent), sum(received), len(sent), len(received))
