"""A run laid out in time, so that it can be drawn: when each rank computed, waited, and what travelled meanwhile.

The simulated network has no clock; the time axis is synthetic: the same trace gives the same times. A rank takes time
for what it computes (as far as that was counted) and a little for each call; a message takes some for its bytes and a
little more, and starts once both ends are ready. What never completed has no end.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from attention_gate.verify.network.trace import Message, Trace
from attention_gate.verify.rank.network_messages import Post, Wait, describe

#: Units of time for a call, for a message, for a kilobyte that travels, for a thousand units of work.
CALL, MESSAGE, KILOBYTE, THOUSAND = 1.0, 4.0, 1.0, 1.0


@dataclass(frozen=True)
class Span:
    """Something that a rank does from one time to another: "compute" or "wait"; ``open``: it never ended."""

    rank: int
    kind: str
    start: float
    end: float
    stage: str
    text: str
    open: bool = False


@dataclass(frozen=True)
class Arrow:
    """A message: its source, destination, start and end; ``open``: it was sent and never received."""

    source: int
    destination: int
    start: float
    end: float
    nbytes: int
    text: str
    open: bool = False


@dataclass
class Timeline:
    """All spans and arrows of a run, and how long it took."""

    size: int
    model: str
    spans: list[Span] = field(default_factory=list)
    arrows: list[Arrow] = field(default_factory=list)

    @property
    def length(self) -> float:
        """When the last of it ends."""
        return max([span.end for span in self.spans] + [arrow.end for arrow in self.arrows], default=1.0)


def timeline(trace: Trace) -> Timeline:
    """Lay a run out in time."""
    return _Clock(trace).run()


class _Clock:
    def __init__(self, trace: Trace) -> None:
        self.trace = trace
        self.result = Timeline(trace.size, trace.model)
        self.posted: dict[tuple[int, int], float] = {}
        self.ended: dict[tuple[int, int], float] = {}
        self.now = [0.0] * trace.size
        self.at = [0] * trace.size
        self.done = [0] * trace.size  # work that has been laid out
        self.messages = {operation: message for message in trace.messages for operation in message.operations}

    def run(self) -> Timeline:
        """Go through the ranks' logs in turns, each as far as it can."""
        moved = True
        while moved:
            moved = sum(self._advance(rank) for rank in range(self.trace.size)) > 0
        pending = [self.now[rank] + self._computed(rank, log[at]) for rank, at, log in self._left()]
        end = max(self.result.length, *self.now, *pending) + 10 * CALL
        for rank in range(self.trace.size):
            self._never_ended(rank, end)
        self.result.arrows = [arrow for message in self.trace.messages for arrow in self._arrows(message)]
        for (rank, number), start in self.posted.items():
            post = self.trace.posts(rank)[number]
            if post.kind == "send" and (rank, number) not in self.messages:
                text, nbytes = describe(post, rank), post.sends[0].nbytes
                lost = min(end, start + 3 * MESSAGE)
                self.result.arrows.append(Arrow(rank, post.peer, start, lost, nbytes, text, open=True))
        return self.result

    def _left(self) -> list[tuple[int, int, list[Post | Wait]]]:
        """The ranks whose logs could not be read to the end, and how far that went."""
        logs = enumerate(self.trace.logs)
        return [(rank, self.at[rank], log) for rank, log in logs if self.at[rank] < len(log)]

    def _advance(self, rank: int) -> bool:
        moved = False
        log = self.trace.logs[rank]
        while self.at[rank] < len(log):
            entry = log[self.at[rank]]
            start = self.now[rank] + self._computed(rank, entry)
            if isinstance(entry, Wait):
                ends = [self._end((rank, number)) for number in entry.numbers]
                if any(end is None for end in ends):
                    return moved
                end = max([start, *(end for end in ends if end is not None)])
                if end > start:
                    names = "; ".join(describe(self.trace.posts(rank)[number], rank) for number in entry.numbers)
                    self._span(rank, "wait", start, end, entry.stage, f"waits for {names}, at {entry.line}")
            else:
                end = start + CALL
                self.posted[rank, entry.number] = start
            self._lay_out(rank, entry, start)
            self.now[rank] = end
            self.at[rank] += 1
            moved = True
        return moved

    def _computed(self, rank: int, entry: Post | Wait) -> float:
        return (entry.work - self.done[rank]) / 1000 * THOUSAND

    def _lay_out(self, rank: int, entry: Post | Wait, until: float) -> None:
        if entry.work > self.done[rank]:
            self._span(rank, "compute", self.now[rank], until, entry.stage, "computes")
        self.done[rank] = entry.work

    def _span(
        self, rank: int, kind: str, start: float, end: float, stage: str, text: str, *, never_ended: bool = False
    ) -> None:
        self.result.spans.append(Span(rank, kind, start, end, stage, text, never_ended))

    def _end(self, operation: tuple[int, int]) -> float | None:
        """When an operation ended; None if that is not known yet."""
        message = self.messages.get(operation)
        if message is None:
            post = self.trace.posts(operation[0])[operation[1]]
            return self.posted.get(operation) if post.kind == "send" and self.trace.model == "eager" else None
        if any(one not in self.posted for one in message.operations):
            eager = self.trace.model == "eager" and message.kind == "message" and operation == message.operations[0]
            return self.posted.get(operation) if eager else None
        return self._span_of(message)[1]

    def _span_of(self, message: Message) -> tuple[float, float]:
        start = max(self.posted[one] for one in message.operations)
        return start, start + MESSAGE + max(message.moved.values(), default=0) / 1024 * KILOBYTE

    def _arrows(self, message: Message) -> list[Arrow]:
        if any(one not in self.posted for one in message.operations):
            return []
        start, end = self._span_of(message)
        rank, number = message.operations[0]
        text = describe(self.trace.posts(rank)[number], rank)
        return [Arrow(source, to, start, end, nbytes, text) for (source, to), nbytes in message.moved.items()]

    def _never_ended(self, rank: int, end: float) -> None:
        """The wait in which a rank was stopped, up to the end of the picture."""
        log = self.trace.logs[rank]
        if rank not in self.trace.stopped or self.at[rank] >= len(log):
            return
        entry = log[self.at[rank]]
        if isinstance(entry, Wait):
            start = self.now[rank] + self._computed(rank, entry)
            self._lay_out(rank, entry, start)
            self._span(rank, "wait", start, end, entry.stage, f"never returned, at {entry.line}", never_ended=True)
