"""A world on this machine: one persistent process per rank, replaced after a crash or a hang."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from typing import Any

import torch.distributed as dist

from attention_gate.verify.rank import memory_limits as memory
from attention_gate.verify.rank.channel import readable
from attention_gate.verify.rank.jobs import Died, Job, Raised, Reply, Returned, Run, Stuck
from attention_gate.verify.rank.seat import Seat, Surroundings
from attention_gate.verify.target.source import Source
from attention_gate.verify.world.fork_client import ForkServer, ForkServerError, keeper
from attention_gate.verify.world.patience import Activity, Limits, Patience
from attention_gate.verify.world.rank_process import RankProcess
from attention_gate.verify.world.signals import shielded
from attention_gate.verify.world.transports import backend_for, in_words

START_SECONDS = 120.0
LOAD_SECONDS = 120.0
_POLL_SECONDS = 0.1

#: Memory that a rank may hold beyond that after its first call before its world is replaced; checked every few runs.
LEAK_BYTES = 512 << 20
_RUNS_PER_LOOK = 8


class WorldError(Exception):
    """The harness could not set up a world; the message says what to do."""


class LocalWorld:
    """Processes for the ranks 0 … size-1, started at the first job and kept.

    >>> with LocalWorld(2) as world:
    ...     run = world.run(job)

    ``device`` is "cpu" (gloo) or "cuda" (NCCL with a GPU per rank; else ranks share GPUs, and gloo carries their
    messages through host memory). After a run that did not return on every rank the
    processes are replaced, as their state is unknown.
    """

    #: What the ranks may send; a world whose ranks send more than replies names it here.
    accepted: tuple[type, ...] = (Returned, Raised, Died)

    def __init__(
        self, size: int, *, device: str = "cpu", backend: str | None = None, patience: float | None = None
    ) -> None:
        self.size = size
        self.device = device
        self.backend = backend or backend_for(device, size)
        self.pace = Patience(device, seconds=patience)
        self.starts = 0
        self.remarks: dict[str, int] = {}
        self._keeper: ForkServer | None = None
        self._members: list[RankProcess] = []
        self._store: int | None = None
        self._folder: str | None = None
        self._job: Job | None = None
        self._loaded: set[Source] = set()
        self._early: Run | None = None
        self._runs = 0
        self._first = True

    def __enter__(self) -> LocalWorld:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes and wait until they have joined; WorldError if they do not."""
        if self._members:
            return
        self._require()
        self.starts += 1
        try:
            self._seat()
            run = self._collect(self._patient(START_SECONDS, "the start"))
        except (ForkServerError, OSError) as error:
            self.close()
            raise WorldError(_why_no_world(self.size, self.backend, [str(error)])) from error
        except BaseException:
            self.close()
            raise
        if run.outcome != "returned":
            self.close()
            raise WorldError(_why_no_world(self.size, self.backend, _reasons(run)))

    def close(self) -> None:
        """End the processes and all that they started, remove what they left; safe at any time, more than once."""
        with shielded():
            members, self._members = self._members, []
            if members and self._keeper is not None:
                self._keeper.clear([member.process for member in members])
            for member in members:
                member.close()
            if self._store is not None:
                os.close(self._store)
                self._store = None
            if self._folder is not None:
                shutil.rmtree(self._folder, ignore_errors=True)
                self._folder = None
            self._loaded.clear()
            self._early = None
            self._first = True

    def submit(self, job: Job) -> None:
        """Send the job to every rank; ``collect`` waits for its replies."""
        self.start()
        self._job = job
        if job.procedure != "load" and job.source not in self._loaded:
            # A world that was replaced imports the target anew, which may take long and is not part of the job.
            run = self._submit_and_collect(Job("load", job.source, (), ()), self._patient(LOAD_SECONDS, "an import"))
            if run.outcome != "returned":
                self._early = run
                return
            self._loaded.add(job.source)
        for member in self._members:
            member.submit(job)

    def collect(self) -> Run:
        """The run of the job that was submitted last."""
        assert self._job is not None
        job, self._job = self._job, None
        first, limits = self._first, self._limits_of(job)
        try:
            run = self._early or self._collect(limits)
            if run.outcome == "hang":
                self.pace.gave_up(first=first)
            if run.outcome != "returned" or any(reply.spoiled for reply in replies_of(run, Returned).values()):
                self.close()
            elif job.procedure == "load":
                self._loaded.add(job.source)
            elif job.seconds is None:
                self._first = False
                self.pace.saw(run.seconds, first=first)
                self._replace_if_swollen()
        except BaseException:
            self.close()
            raise
        return run

    def run(self, job: Job) -> Run:
        """Submit the job and collect its run."""
        self.submit(job)
        return self.collect()

    def _limits_of(self, job: Job) -> Limits:
        """How long the job may take."""
        if job.procedure == "load":
            return self._patient(LOAD_SECONDS, "an import")
        if job.seconds is not None:
            return Limits(job.seconds, job.seconds)
        return self.pace.limits(first=self._first)

    def _patient(self, seconds: float, what: str) -> Limits:
        """The limits of what may take so long, of rest or of work."""
        return Limits(seconds * self.pace.stretch, seconds * self.pace.stretch, what)

    def hurried(self) -> contextlib.AbstractContextManager[None]:
        """Context manager: shorter hang limits inside, for many cases in a row that are likely to hang."""
        return self.pace.in_a_hurry()

    def _seat(self) -> None:
        self._store, self._folder, path = _rendezvous()
        self._keeper = keeper()
        share = memory.share(self.size)
        surroundings = Surroundings(list(sys.path), _cwd(), dict(os.environ), share)
        for rank in range(self.size):
            seat = Seat(rank, self.size, path, self.device, self.backend)
            with shielded():
                self._members.append(RankProcess(self._keeper, seat, surroundings, self._store))
            self._members[-1].accepted = self.accepted

    def _require(self) -> None:
        """Refuse at once what can only fail, with a message that says what to do."""
        there = {"gloo": dist.is_gloo_available, "nccl": dist.is_nccl_available} if dist.is_available() else {}
        if self.backend in ("gloo", "nccl") and not (self.backend in there and there[self.backend]()):
            raise WorldError(f"this torch was built without {self.backend}; install one that has it, from pytorch.org")
        share = memory.share(self.size)
        if share is not None and share < memory.NEEDED:
            fits = int(memory.share(1) or 0) // memory.NEEDED
            raise WorldError(
                f"a world of {self.size} ranks needs {memory.in_words(self.size * memory.NEEDED)} of memory, and this "
                f"machine has {memory.in_words(memory.share(1) or 0)} to give: --world-sizes up to {max(1, fits)}"
            )

    def _submit_and_collect(self, job: Job, limits: Limits) -> Run:
        try:
            for member in self._members:
                member.submit(job)
            return self._collect(limits)
        except BaseException:
            self.close()
            raise

    def _collect(self, limits: Limits) -> Run:
        start = time.monotonic()
        replies: dict[int, Reply] = {}
        activity = Activity()
        failed_at: float | None = None
        limit = ""
        while len(replies) < self.size:
            pending = [member for member in self._members if member.rank not in replies]
            ready = readable([end for member in pending for end in member.ends], _POLL_SECONDS)
            for member in pending:
                if any(end in ready for end in member.ends) and (reply := member.reply()) is not None:
                    replies[member.rank] = reply
                    if isinstance(reply, Raised | Died):
                        failed_at = failed_at or time.monotonic()
            now = time.monotonic()
            if failed_at is not None and now - failed_at > Patience.after_failure:
                break
            if not ready:
                activity.look(member.pid for member in pending)
                if limit := limits.passed(activity):
                    break
        for member in self._members:
            if member.rank not in replies:
                replies[member.rank] = member.stuck()
        return Run(tuple(replies[rank] for rank in range(self.size)), time.monotonic() - start, limit)

    def _replace_if_swollen(self) -> None:
        """Start anew before a target that leaks has taken the machine's memory, and remark on it."""
        self._runs += 1
        if self._runs % _RUNS_PER_LOOK == 1:
            growth = max(member.growth() for member in self._members)
            if growth > LEAK_BYTES:
                self.close()
                remark = (
                    f"ranks were replaced since they had come to hold {memory.in_words(LEAK_BYTES)} more than at first"
                )
                self.remarks[remark] = self.remarks.get(remark, 0) + 1


class Worlds:
    """Worlds by size, each started when it is first needed; ``patience`` is that of each, in seconds."""

    def __init__(self, *, device: str = "cpu", backend: str | None = None, patience: float | None = None) -> None:
        self.device = device
        self.backend = backend
        self.patience = patience
        self._worlds: dict[int, LocalWorld] = {}

    def __enter__(self) -> Worlds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, size: int) -> LocalWorld:
        if size not in self._worlds:
            self._worlds[size] = LocalWorld(size, device=self.device, backend=self.backend, patience=self.patience)
        return self._worlds[size]

    @contextlib.contextmanager
    def hurried(self) -> Iterator[None]:
        """As LocalWorld.hurried, for all of them."""
        with contextlib.ExitStack() as stack:
            for world in self._worlds.values():
                stack.enter_context(world.hurried())
            yield

    def transport(self, sizes: Sequence[int]) -> str:
        """What carries the messages of worlds of those sizes, in words."""
        return self.backend or in_words(self.device, sizes)

    def notes(self) -> tuple[str, ...]:
        """What happened to the worlds that a reader of a report should know."""
        found: dict[str, int] = {}
        for world in self._worlds.values():
            for remark, times in world.remarks.items():
                found[remark] = found.get(remark, 0) + times
        return tuple(f"{remark} ({times} times)" if times > 1 else remark for remark, times in found.items())

    def close(self) -> None:
        """Close every world."""
        for world in self._worlds.values():
            world.close()


def _rendezvous() -> tuple[int | None, str | None, str]:
    """A file for the ranks to find each other: in memory, given to them as a descriptor; else in a folder on disk."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create("attention-gate-store"), None, ""
    try:
        folder = tempfile.mkdtemp(prefix="attention-gate-")
    except OSError as error:
        raise WorldError(f"no temporary folder can be made: {error}; set TMPDIR to one that can be written") from error
    return None, folder, os.path.join(folder, "store")


def _cwd() -> str | None:
    try:
        return os.getcwd()
    except OSError:
        return None


def _reasons(run: Run) -> list[str]:
    reasons = []
    for rank, reply in enumerate(run.replies):
        if isinstance(reply, Raised):
            reasons.append(f"rank {rank} raised {reply.type}: {reply.message}")
        elif isinstance(reply, Died):
            reasons.append(f"rank {rank} {reply.how}: {reply.output.strip()[-500:]}".removesuffix(": "))
        elif isinstance(reply, Stuck):
            reasons.append(f"rank {rank} did not join within {START_SECONDS:.0f} s")
    return reasons


def _why_no_world(size: int, backend: str, reasons: list[str]) -> str:
    return (
        f"a world of {size} {backend} processes could not be started: {'; '.join(reasons[:2])}. "
        "`python -m attention_gate doctor` says what this machine can run."
    )


def replies_of(run: Run, kind: type) -> dict[int, Any]:
    """The replies of one kind, by global rank."""
    return {rank: reply for rank, reply in enumerate(run.replies) if isinstance(reply, kind)}


__all__ = ["LocalWorld", "Returned", "WorldError", "Worlds", "replies_of"]
