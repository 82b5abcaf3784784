"""What goes between the gate and its workers: jobs out, replies back, and what a run of one job amounted to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.target.source import Source


@dataclass(frozen=True)
class Job:
    """One procedure to be run on every rank: which, on what, with the positions that each shard owns.

    ``cases`` all share world_size and group; ``positions[k]`` are those in case k. ``seconds`` is how
    long it may take, of rest or of work; None leaves that to the world.
    """

    procedure: str
    source: Source
    cases: tuple[Case, ...]
    positions: tuple[Positions, ...]
    options: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None


@dataclass(frozen=True)
class Returned:
    """The rank finished; value is what the procedure returned (None on ranks that take no part).

    ``spoiled``: the call left the process in a state that could not be put right.
    """

    value: Any
    seconds: float
    spoiled: bool = False


@dataclass(frozen=True)
class Raised:
    """The rank raised: the exception's type and text, and the traceback from the target's frames on."""

    type: str
    message: str
    traceback: str
    seconds: float


@dataclass(frozen=True)
class Died:
    """The rank's process ended; how, in words, the last that it printed, and its stack where it crashed in C."""

    how: str
    output: str
    stack: str = ""


@dataclass(frozen=True)
class Stuck:
    """The rank had not finished when the run was given up; its stack at that moment, and what it printed."""

    stack: str
    output: str


Reply = Returned | Raised | Died | Stuck


@dataclass(frozen=True)
class Run:
    """The replies of all ranks of a world to one job, by global rank; the limit that ended it, in words, if one did."""

    replies: tuple[Reply, ...]
    seconds: float
    limit: str = ""

    @property
    def outcome(self) -> str:
        """ "returned", "crash" (a rank raised or died) or "hang" (none did, and the world came to rest)."""
        if all(isinstance(reply, Returned) for reply in self.replies):
            return "returned"
        if any(isinstance(reply, Raised | Died) for reply in self.replies):
            return "crash"
        return "hang"

    def value(self, rank: int) -> Any:
        """What the procedure returned on that global rank, of a run that returned."""
        reply = self.replies[rank]
        assert isinstance(reply, Returned)
        return reply.value
