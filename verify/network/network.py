"""The network itself: knows what every rank has posted and waits for, and decides which transfer completes next.

It acts only when no rank can go on by itself. Then it completes transfers that the delivery model allows, those that
the schedule says, and wakes the ranks whose wait is over. If there is none and ranks wait, that is a deadlock, known at
once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from attention_gate.verify.network import misuse
from attention_gate.verify.network.deadlock import deadlock
from attention_gate.verify.network.livelock import livelock, repeating
from attention_gate.verify.network.matching import Matcher
from attention_gate.verify.network.rank_state import Operation, RankState, Transfer
from attention_gate.verify.network.trace import Message, Trace
from attention_gate.verify.rank.collectives import outcome, pairs
from attention_gate.verify.rank.network_messages import Signal, Stop, Wait, Wake
from attention_gate.verify.world.finding import Finding

#: Delivery models, from the most forgiving on. "eager": a send completes at once. "rendezvous": it completes with its
#: receive. "stream": in addition, a rank's operations in one group run in the order of issue, each waits for the last,
#: and only those of one batch run together, as on NCCL.
MODELS = ("eager", "rendezvous", "stream")

#: Answers "not yet" in a row that pollers get while nothing moves, before the network reports a deadlock.
_PATIENCE = 100
#: How often in a row the schedule may answer pollers "not yet" although a transfer could complete.
_TEASING = 3


@dataclass(frozen=True)
class Schedule:
    """A delivery model and a list of choices: which possible transfers complete at each turn.

    The choices are used over and over, one for each turn. 0: all complete; odd, 2 k + 1: the k-th alone, in the order
    of posting; even, 2 k + 2: all but the k-th, which is held back. No choices at all: always all.
    """

    model: str = "rendezvous"
    choices: tuple[int, ...] = ()

    def choose(self, turn: int, possible: int) -> list[int]:
        """Which of ``possible`` transfers complete in this turn: at least one."""
        choice = self.choices[turn % len(self.choices)] if self.choices else 0
        if choice % 2:
            return [choice // 2 % possible]
        held = (choice // 2 - 1) % possible if choice and possible > 1 else -1
        return [k for k in range(possible) if k != held]

    def stalls(self, turn: int) -> bool:
        """Whether nothing completes at that turn, should a rank ask."""
        return bool(self.choices) and self.choices[turn % len(self.choices)] % 4 == 3


class Network:
    """One run: ``take`` what the ranks signal, and as soon as it is ``quiet``, ``step``."""

    def __init__(self, size: int, schedule: Schedule, most: int | None = None) -> None:
        self.schedule = schedule
        self._most = most  # operations that a rank can need
        self.members = [RankState(rank) for rank in range(size)]
        self.finding: Finding | None = None
        self.trace = Trace(size, schedule.model)
        self._matcher = Matcher(schedule.model)
        self._inbox: dict[int, Signal] = {}
        self._touched: Finding | None = None
        self._turn = 0
        self._idle = 0
        self._teased = 0

    @property
    def quiet(self) -> bool:
        """Whether no rank can go on by itself."""
        return all(member.state != "running" or member.rank in self._inbox for member in self.members)

    def take(self, rank: int, signal: Signal) -> None:
        """Keep a rank's signal; it counts from the next step on, so that the order of arrival does not matter."""
        self._inbox[rank] = signal

    def gone(self, rank: int, *, failed: bool) -> None:
        """The rank has answered its job, or died; it will not signal again."""
        if self.members[rank].state == "running" and (failed or rank not in self._inbox):
            self.members[rank].state = "failed" if failed else "end"
            self._inbox.pop(rank, None)

    def step(self) -> list[tuple[int, Wake | Stop]]:
        """Messages for the ranks once none is running; at least one unless all have ended."""
        self._absorb()
        while self.finding is None:
            answers = self._answers()
            if answers:
                return answers
            if not self._advance():
                break
        return self._conclude()

    def _absorb(self) -> None:
        for rank in sorted(self._inbox):
            signal, member = self._inbox[rank], self.members[rank]
            member.state, member.wanted = signal.state, signal.wanted
            member.unwaited, member.remarks = signal.unwaited, signal.remarks
            for entry in signal.log:
                if isinstance(entry, Wait):
                    if entry.numbers:
                        member.waits.append(entry)
                    self.trace.waited(rank, entry)
                    continue
                operation = Operation(rank, entry)
                member.operations.append(operation)
                self.trace.posted(rank, entry)
                self.finding = self.finding or self._matcher.add(operation)
            if self._most is not None and len(member.operations) > self._most and self.finding is None:
                self.finding = livelock(self.members, f"the ranks of this case can need at most {self._most:,}")
            for number, contents in signal.contents.items():
                member.operations[number].contents = contents
            if signal.touched and self._touched is None:
                self._touched = misuse.written_to(rank, member.operations[signal.touched[0]].post, self.where(rank))
            if self.schedule.model == "eager":
                for wait in (entry for entry in signal.log if isinstance(entry, Wait)):
                    for number in wait.numbers:
                        operation = member.operations[number]
                        operation.done = operation.done or operation.post.kind == "send"
        self._inbox.clear()

    def _answers(self) -> list[tuple[int, Wake | Stop]]:
        """Wake the ranks whose waits are over; pollers are answered after every turn."""
        answers: list[tuple[int, Wake | Stop]] = []
        for member in self.members:
            if member.state in ("wait", "poll") and (member.polled or not member.missing):
                answers.append((member.rank, Wake(member.news, member.sources)))
                member.news, member.sources, member.state, member.polled = {}, {}, "running", False
        return answers

    def _advance(self) -> bool:
        """Complete some transfers, or let the pollers go on; False if nothing can happen any more."""
        ready = self._matcher.ready()
        pollers = [member for member in self.members if member.state == "poll"]
        if not ready and not pollers:
            return False
        turn, self._turn = self._turn, self._turn + 1
        for member in pollers:
            member.polled = True
        if not ready or (pollers and self._teased < _TEASING and self.schedule.stalls(turn)):
            self._teased += 1
            self._idle += not ready
            return self._idle < _PATIENCE
        self._idle = self._teased = 0
        for pick in self.schedule.choose(turn, len(ready)):
            # Of two that want the same message, as receives from any rank may, one has come too late.
            if not any(operation.through for operation in ready[pick].operations):
                self._complete(ready[pick])
        return True

    def _complete(self, transfer: Transfer) -> None:
        posts = [operation.post for operation in transfer.operations]
        if transfer.collective:
            contents = {i: operation.contents or [] for i, operation in enumerate(transfer.operations)}
            results = outcome(posts, contents)
            moved = {(posts[0].ranks[i], posts[0].ranks[j]): n for (i, j), n in pairs(posts).items()}
        else:
            send, receive = transfer.operations
            results = [[], send.contents or [b""]]
            moved = {(send.rank, receive.rank): posts[0].sends[0].nbytes}
            self.members[receive.rank].sources[posts[1].number] = send.rank
        for operation, result in zip(transfer.operations, results, strict=True):
            operation.done, operation.through, operation.contents = True, True, None
            self.members[operation.rank].news[operation.post.number] = result
        self._matcher.completed(transfer)
        self.trace.completed(
            Message(
                posts[0].kind if transfer.collective else "message",
                tuple((operation.rank, operation.post.number) for operation in transfer.operations),
                moved,
                posts[-1].stage,
            )
        )

    def _conclude(self) -> list[tuple[int, Wake | Stop]]:
        """Nothing more can happen, or enough has been seen: judge what is left, then stop the ranks that still wait."""
        waiting = [member for member in self.members if member.state in ("wait", "poll")]
        if self.finding is None and waiting and not any(m.state == "failed" for m in self.members):
            self.finding, self.trace.waiting = deadlock(self.members, self._matcher, self.schedule.model)
        if self.finding is None and all(m.state == "end" for m in self.members):
            # A handle that is never waited for is the cause of what is written too early.
            self.finding = misuse.left_behind(self.members) or self._touched
        self.trace.stopped += tuple(member.rank for member in waiting)
        reason = self.finding.headline if self.finding else "another rank failed"
        for member in waiting:
            member.state = "running"
        return [(member.rank, Stop(reason)) for member in waiting]

    def run_out(self, limit: str) -> None:
        """The run is ended by that limit of time: if its ranks do the same over and over, that is what is wrong."""
        self.finding = self.finding or repeating(self.members, limit)

    def where(self, rank: int) -> str:
        """The line at which the rank waits, or waited last."""
        waits: list[Any] = self.members[rank].waits
        return waits[-1].line if waits else ""
