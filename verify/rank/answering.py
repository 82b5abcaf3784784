"""A rank in its world: answers jobs and restores the process state after each."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from attention_gate.verify.rank.attended import Attended, Call
from attention_gate.verify.rank.jobs import Died, Job, Raised, Reply, Returned
from attention_gate.verify.rank.own_files import calls_targets, is_transport
from attention_gate.verify.rank.procedures import procedure
from attention_gate.verify.rank.process_state import State, seed_generators
from attention_gate.verify.rank.seat import Seat
from attention_gate.verify.target.loading import load
from attention_gate.verify.target.source import Source

_TEXT_KEPT = 4000
_NAME_KEPT = 200

_memory_words = ""


def explain_memory(words: str) -> None:
    """What is added to the text of an error that says that memory ran out."""
    global _memory_words
    _memory_words = words


class Rank:
    """A rank that has joined its world: runs jobs, keeps the loaded targets and the sub-groups."""

    def __init__(self, seat: Seat, device: torch.device, stacks: int | None = None) -> None:
        self.seat = seat
        self.device = device
        self._stacks = stacks
        self._groups: dict[tuple[int, ...], Any] = {}
        self._targets: dict[Source, Callable[..., Any]] = {}
        self._world = dist.group.WORLD

    def answer(self, job: Job) -> Reply:
        """Run one job; whatever it raises is the reply. What it changed in this process is put right again."""
        start = time.perf_counter()
        before = None
        value = None
        try:
            attend = self._attend(job.source)  # importing it may change what it likes
            if job.cases:
                seed_generators(job.cases[0].seed, self.device)
                before = State.now()
            value = self._perform(job, attend)
            seconds = time.perf_counter() - start
        except BaseException as error:
            reply: Reply = raised(error, time.perf_counter() - start)
        else:
            reply = Returned(value, seconds)
        try:
            if before is not None and self._leave_as_found(before, value) and isinstance(reply, Returned):
                reply = replace(reply, spoiled=True)
            if isinstance(reply, Returned) and (not dist.is_initialized() or dist.group.WORLD is not self._world):
                reply = Died("destroyed or replaced the default process group", "")
        except BaseException as error:
            return raised(error, time.perf_counter() - start)
        return reply

    def _leave_as_found(self, before: State, value: Any) -> bool:
        """Undo changes of the process's state, remark on them in the result; whether some could not be undone."""
        after = State.now()
        changes = before.changes_to(after)
        if not changes:
            return False
        for attended in value if isinstance(value, list) else [value]:
            if isinstance(attended, Attended):
                attended.remarks += changes
        before.restore(after)
        if before.signals != after.signals and self._stacks is not None:
            show_stacks_on(self._stacks)
        return bool(before.changes_to(State.now()))

    def _perform(self, job: Job, attend: Callable[..., Any]) -> Any:
        run = procedure(job.procedure)
        if not job.cases:
            return run(Call(attend, (), (), None, self.device, 0, job.options))
        ranks = job.cases[0].ranks
        group = self._group(job.cases[0].group)
        if self.seat.rank not in ranks:
            return None
        shard = ranks.index(self.seat.rank)
        positions = tuple(owned.shard(shard) for owned in job.positions)
        return run(Call(attend, job.cases, positions, group, self.device, shard, job.options))

    def _group(self, ranks: tuple[int, ...] | None) -> Any:
        if ranks is None:
            return None
        if ranks not in self._groups:
            self._groups[ranks] = dist.new_group(list(ranks))  # every rank of the world passes here
        return self._groups[ranks]

    def _attend(self, source: Source) -> Callable[..., Any]:
        if source not in self._targets:
            self._targets[source] = load(source).attend
        return self._targets[source]


def raised(error: BaseException, seconds: float) -> Raised:
    """The exception as plain text: it may not be picklable, its text may be endless, and its own repr may raise."""
    name = "an exception"
    with contextlib.suppress(BaseException):
        name = _plain(type(error).__name__, _NAME_KEPT)
    try:
        message = _plain(str(error), _TEXT_KEPT)
        if isinstance(error, MemoryError) or "can't allocate memory" in message:
            message += _memory_words
    except BaseException as inner:
        message = f"<no message: str() of the exception raised {type(inner).__name__}>"
    try:
        frames = traceback.extract_tb(error.__traceback__)
        own = [i for i, frame in enumerate(frames) if calls_targets(frame.filename)]
        shown = frames[own[-1] + 1 :] if own and own[-1] + 1 < len(frames) else frames
        shown = [frame for frame in shown if not is_transport(frame.filename)] or shown  # it ends at the target's line
        text = _plain("".join(traceback.format_list(shown)[-12:]), _TEXT_KEPT)
    except BaseException:
        text = ""
    return Raised(name, message, text, seconds)


def _plain(text: str, kept: int) -> str:
    """The text as a plain string that can be printed, no longer than that; a subclass of str could be anything."""
    plain = str.__getitem__(text, slice(0, kept)).encode(errors="replace").decode()
    return "".join(
        letter if letter.isprintable() or letter in "\n\t" else "\N{REPLACEMENT CHARACTER}" for letter in plain
    )


def show_stacks_on(descriptor: int) -> None:
    """From now on SIGUSR1 makes this process write the stack of its main thread there, whatever it is doing."""
    faulthandler.unregister(signal.SIGUSR1)
    faulthandler.register(signal.SIGUSR1, file=descriptor, all_threads=False, chain=False)
