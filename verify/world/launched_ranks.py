"""A world that a launcher started (torchrun, Slurm): judge on the machines and over the transport that are there.

Each launched process keeps one rank: a separate process that runs the target, so that it can be replaced after a
crash or a hang, on all machines at once. Jobs and replies travel through the launcher's rendezvous store, beside the
transport that the target uses.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from attention_gate.verify.case.case import Case
from attention_gate.verify.rank import memory_limits as memory
from attention_gate.verify.rank.channel import plain
from attention_gate.verify.rank.jobs import Died, Job, Raised, Reply, Returned, Run, Stuck
from attention_gate.verify.rank.seat import Seat, Surroundings
from attention_gate.verify.world.fork_client import ForkServer, keeper
from attention_gate.verify.world.local import LOAD_SECONDS, START_SECONDS, WorldError
from attention_gate.verify.world.patience import Activity, Limits, Patience
from attention_gate.verify.world.rank_process import RankProcess

_POLL_SECONDS = 0.002
_IDLE_SECONDS = 0.01
_LOOK_SECONDS = 0.2
_ANSWER_SECONDS = 15.0

#: For how long a process looks for the store of its launcher; where rank 0 keeps that itself, as without torchrun, for
#: how long it waits for all others, too.
_JOIN_TIME = timedelta(minutes=5)

#: Seconds of rest and of work while ranks start and import the target, which may compile something.
_PATIENT = START_SECONDS + LOAD_SECONDS


def launched_by_torchrun() -> bool:
    """Whether the environment names this process's rank and the world's size, as torchrun does."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


class LaunchedWorlds:
    """The launched world instead of worlds of its own: rank 0 judges, the others ``serve``.

    >>> with LaunchedWorlds("cpu") as worlds:
    ...     if worlds.rank != 0:
    ...         status = worlds.serve()

    A world of fewer ranks is a group of the first ones; ``place`` moves a case there.
    """

    def __init__(self, device: str, *, backend: str | None = None, patience: float | None = None) -> None:
        self.device = device
        self.backend = backend or ("nccl" if device == "cuda" else "gloo")
        self.patience = patience
        self.pace = Patience(device, seconds=patience)
        store, self.rank, self.size = next(dist.rendezvous("env://", timeout=_JOIN_TIME))
        self._store = dist.PrefixStore("attention-gate", store)
        self._put(f"here/{self.rank}", True)
        self._host = _Host(self.rank, self.size, device, self.backend)
        self._count = 0
        self._generation = 1
        self._begun = 0
        self._job: Job | None = None
        self._early: Run | None = None
        self._first = True

    def transport(self, sizes: Sequence[int]) -> str:
        """What carries the messages of worlds of those sizes, in words."""
        return self.backend

    def __enter__(self) -> LaunchedWorlds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, size: int) -> LaunchedWorlds:
        if size > self.size:
            raise WorldError(f"a world of {size} was asked for, but {self.size} ranks were launched")
        return self

    def place(self, case: Case) -> Case:
        """The same case in the launched world: a smaller world becomes a group of the first ranks."""
        if case.world_size == self.size:
            return case
        group = case.group if case.group is not None else tuple(range(case.world_size))
        return case.replace(world_size=self.size, group=group)

    def notes(self) -> tuple[str, ...]:
        """What a reader of a report should know of this world."""
        if self._generation == 1:
            return ()
        return (
            f"all ranks were replaced {self._generation - 1} times, after crashes, hangs and what could not be undone",
        )

    def hurried(self) -> contextlib.AbstractContextManager[None]:
        """Context manager: shorter hang limits inside, for many cases in a row that are likely to hang."""
        return self.pace.in_a_hurry()

    def renew(self) -> None:
        """Let the next job be the first in its processes."""
        self._generation += 1

    def submit(self, job: Job) -> None:
        """Give the job to every rank; only rank 0 does."""
        self._job = job
        if self._begun != self._generation:
            self._begun = self._generation
            self._first = True
            if job.procedure != "load":
                # Ranks that are new import the target anew, which may take long and is not part of the job.
                run = self._exchange(Job("load", job.source, (), ()), self._patient())
                if run.outcome != "returned":
                    self._early = run
                    return
        self._give(job)

    def collect(self) -> Run:
        """The run of the job that was submitted last."""
        assert self._job is not None
        job, self._job = self._job, None
        early, self._early = self._early, None
        loads = job.procedure == "load"
        first = self._first
        run = early or self._collect(self._patient() if loads else self.pace.limits(first=first))
        if run.outcome == "hang":
            self.pace.gave_up(first=first)
        if run.outcome != "returned" or any(getattr(reply, "spoiled", False) for reply in run.replies):
            self._generation += 1
        elif not loads:
            self._first = False
            self.pace.saw(run.seconds, first=first)
        return run

    def _patient(self) -> Limits:
        seconds = _PATIENT * self.pace.stretch
        return Limits(seconds, seconds, "the start and the import")

    def run(self, job: Job) -> Run:
        """Submit the job and collect its run."""
        self.submit(job)
        return self.collect()

    def serve(self) -> int:
        """Run jobs until rank 0 dismisses the world; returns the exit status that rank 0 gave."""
        while True:
            self._count += 1
            message = self._next()
            if isinstance(message, int):
                self._put(f"heard/{self.rank}", True)
                self._wait_until_over()
                return message
            self._host.begin(*message)
            looked = 0.0
            while (reply := self._host.reply()) is None:
                now = time.monotonic()
                if now - looked > _LOOK_SECONDS:
                    looked = now
                    self._put(f"pace/{self._count}/{self.rank}", self._host.look())
                    if self._store.check([f"give-up/{self._count}"]):
                        reply = self._host.stuck()
                        break
                time.sleep(_POLL_SECONDS)
            self._put(f"reply/{self._count}/{self.rank}", reply)

    def dismiss(self, status: int) -> None:
        """End ``serve`` on all other ranks with that exit status; waits until they have received it.

        No process ends first: a launcher ends the whole node with the first failed process, the store included, and
        ranks that came later would not find it.
        """
        self._count += 1
        self._put(f"job/{self._count}", status)
        self._wait_for_all("here", START_SECONDS)
        self._wait_for_all("heard", _ANSWER_SECONDS)
        self._put("over", True)

    def _wait_until_over(self) -> None:
        deadline = time.monotonic() + START_SECONDS + _ANSWER_SECONDS
        with contextlib.suppress(RuntimeError):  # once it is over the store may be gone
            while not self._store.check(["over"]) and time.monotonic() < deadline:
                time.sleep(_IDLE_SECONDS)

    def _wait_for_all(self, what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        keys = [f"{what}/{rank}" for rank in range(1, self.size)]
        while keys and not self._store.check(keys) and time.monotonic() < deadline:
            time.sleep(_IDLE_SECONDS)

    def close(self) -> None:
        """End this process's rank and all that it started; safe to call more than once."""
        self._host.close()

    def _exchange(self, job: Job, limits: Limits) -> Run:
        self._give(job)
        return self._collect(limits)

    def _give(self, job: Job) -> None:
        self._count += 1
        self._put(f"job/{self._count}", (self._generation, job))
        self._host.begin(self._generation, job)

    def _collect(self, limits: Limits) -> Run:
        start = looked = time.monotonic()
        limit = ""
        replies: dict[int, Reply] = {}
        failed_at: float | None = None
        while len(replies) < self.size:
            for rank in range(self.size):
                if rank not in replies and (reply := self._reply(rank)) is not None:
                    replies[rank] = reply
                    if isinstance(reply, Raised | Died):
                        failed_at = failed_at or time.monotonic()
            now = time.monotonic()
            if failed_at is not None and now - failed_at > 4 * Patience.after_failure:
                break
            if now - looked > _LOOK_SECONDS:
                looked = now
                paces = [self._pace_of(rank) for rank in range(self.size) if rank not in replies]
                longest = (min(rest for rest, _ in paces), max(work for _, work in paces)) if paces else (0.0, 0.0)
                if limit := limits.passed_by(*longest):
                    break
            time.sleep(_POLL_SECONDS)
        self._give_up(replies)
        return Run(tuple(replies[rank] for rank in range(self.size)), time.monotonic() - start, limit)

    def _give_up(self, replies: dict[int, Reply]) -> None:
        """Have those ranks that did not answer say where they are, and forget the job."""
        if len(replies) < self.size:
            self._put(f"give-up/{self._count}", True)
            if self.rank not in replies:
                replies[self.rank] = self._host.stuck()
        deadline = time.monotonic() + _ANSWER_SECONDS
        while len(replies) < self.size and time.monotonic() < deadline:
            for rank in range(self.size):
                if rank not in replies and (reply := self._reply(rank)) is not None:
                    replies[rank] = reply
            time.sleep(_POLL_SECONDS)
        for rank in range(self.size):
            replies.setdefault(rank, Died("does not answer: its machine, or the way there, is gone", ""))
        self._store.delete_key(f"job/{self._count}")

    def _reply(self, rank: int) -> Reply | None:
        if rank == self.rank:
            return self._host.reply()
        key = f"reply/{self._count}/{rank}"
        if not self._store.check([key]):
            return None
        reply: Reply = plain(self._store.get(key))
        self._store.delete_key(key)
        self._store.delete_key(f"pace/{self._count}/{rank}")
        return reply

    def _pace_of(self, rank: int) -> tuple[float, float]:
        """For how long the rank has been at rest, and at work on this job, as its launched process saw it last."""
        if rank == self.rank:
            return self._host.look()
        key = f"pace/{self._count}/{rank}"
        if not self._store.check([key]):
            return 0.0, 0.0
        pace: tuple[float, float] = plain(self._store.get(key))
        return pace

    def _put(self, key: str, value: object) -> None:
        self._store.set(key, pickle.dumps(value))  # type: ignore[arg-type]  # it takes bytes, whatever its stub says

    def _next(self) -> Any:
        key = f"job/{self._count}"
        while not self._store.check([key]):
            time.sleep(_POLL_SECONDS)
        return pickle.loads(self._store.get(key))


class _Host:
    """Keeps this process's rank; a new generation is a new process that joins a new process group."""

    def __init__(self, rank: int, size: int, device: str, backend: str) -> None:
        self._rank, self._size = rank, size
        self._device, self._backend = device, backend
        self._keeper: ForkServer | None = None
        self._member: RankProcess | None = None
        self._generation = 0
        self._joining = False
        self._activity = Activity()

    def begin(self, generation: int, job: Job) -> None:
        """Give the rank a job; it is started first if there is none of that generation."""
        if self._member is None or generation != self._generation:
            self.close()
            self._start(generation)
        assert self._member is not None
        self._activity = Activity()
        self._member.submit(job)

    def reply(self) -> Reply | None:
        """The rank's reply to the job, or None while there is none."""
        assert self._member is not None
        reply: Reply | None = self._member.reply()
        if self._joining and isinstance(reply, Returned):
            self._joining = False
            return None
        return reply

    def look(self) -> tuple[float, float]:
        """For how long the rank has been at rest, and at work on the job."""
        assert self._member is not None
        self._activity.look([self._member.pid])
        return self._activity.resting, self._activity.working

    def stuck(self) -> Stuck | Died:
        """Where the rank is now, or how it ended."""
        assert self._member is not None
        return self._member.stuck()

    def close(self) -> None:
        """End the rank and all that it started."""
        if self._member is not None:
            if self._keeper is not None:
                self._keeper.clear([self._member.process])
            self._member.close()
            self._member = None

    def _start(self, generation: int) -> None:
        address, port = os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]
        host = f"[{address}]" if ":" in address else address
        store = f"tcp://{host}:{port}/attention-gate/ranks/{generation}"
        share = memory.share(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        surroundings = Surroundings(list(sys.path), os.getcwd(), dict(os.environ), share)
        self._keeper = keeper()
        seat = Seat(self._rank, self._size, store, self._device, self._backend)
        self._member = RankProcess(self._keeper, seat, surroundings, None)
        self._generation, self._joining = generation, True
