"""One rank: a process that joins the world, takes jobs from a pipe, and answers each on that pipe."""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NoReturn
from urllib.parse import urlsplit

import torch
import torch.distributed as dist

from verify.procedures import Attended, Call, procedure
from verify.target import Source, load
from verify.world import memory, processes
from verify.world.channel import Channel
from verify.world.messages import Died, Job, Raised, Reply, Returned
from verify.world.state import State, seed_generators

_OWN_FILES = tuple(os.path.join(os.path.dirname(os.path.dirname(__file__)), name) for name in ("procedures", "world"))
_TEXT_KEPT = 4000
_NAME_KEPT = 200

_memory_words = ""

#: Exit status of a rank that cannot reach the gate any more, though the gate is there.
CUT_OFF = 113


@dataclass(frozen=True)
class Seat:
    """Where a worker sits: its rank, the world's size, the rendezvous (a file, or tcp://…), device and backend."""

    rank: int
    world_size: int
    store: str
    device: str
    backend: str


@dataclass(frozen=True)
class Surroundings:
    """What a worker takes over from the gate: where modules are found, the folder, the environment, its memory."""

    path: list[str]
    cwd: str | None
    environment: dict[str, str]
    memory: int | None


def main(place: tuple[Seat, Surroundings], jobs: int, output: int, stacks: int, store: int | None = None) -> NoReturn:
    """Serve jobs until the gate closes the channel. Runs in a process of its own and ends it.

    ``jobs``, ``output`` and ``stacks`` are file descriptors: a channel, where this process prints, where its stack is
    written on demand. ``store`` is the rendezvous file's, if that is in no folder.
    """
    seat, surroundings = place
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gate's to handle
    os.dup2(output, 1)
    os.dup2(output, 2)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.reconfigure(line_buffering=True)  # type: ignore[union-attr]  # what is printed is there, whatever ends
    _show_stacks_on(stacks)
    faulthandler.enable(file=stacks, all_threads=False)  # a crash in C says where it was called from
    _settle(surroundings, seat.device)
    if store is not None:
        seat = replace(seat, store=f"/proc/self/fd/{store}")
    channel = Channel.of(jobs)
    try:
        device = join(seat, channel)
    except BaseException as error:
        channel.send(raised(error, 0.0))
        os._exit(1)
    rank = Rank(seat, device, stacks)
    try:
        channel.send(Returned(None, 0.0))
        while True:
            try:
                job = channel.receive()
            except EOFError:
                break
            reply = rank.answer(job)
            _flush()
            channel.send(reply)
    except BaseException:
        # The target has closed this process's descriptors, or broken what the harness itself stands on.
        os._exit(CUT_OFF)
    # Neither the target's threads nor its exit handlers may keep the process.
    os._exit(0)


def _settle(surroundings: Surroundings, device: str) -> None:
    sys.path[:] = surroundings.path
    if surroundings.cwd is not None:
        with contextlib.suppress(OSError):
            os.chdir(surroundings.cwd)
    keep = {processes.MARK, *processes.ONE_THREAD}
    for name in set(os.environ) - set(surroundings.environment) - keep:
        del os.environ[name]
    os.environ.update({name: value for name, value in surroundings.environment.items() if name not in keep})
    memory.never_dump_core()
    memory.first_to_go()
    if surroundings.memory is not None and device == "cpu":
        memory.limit(surroundings.memory)
        global _memory_words
        _memory_words = f" (out of memory: this machine has {memory.in_words(surroundings.memory)} for each rank)"
    torch.set_num_threads(1)


def join(seat: Seat, channel: Channel | None = None) -> torch.device:
    """Initialise the default process group; returns the device that this rank computes on.

    ``channel`` leads to the gate: the simulated network carries its messages by it.
    """
    if seat.backend == "simulated":
        from verify.network.backend import connect

        connect(seat.rank, channel)
    if seat.device == "cuda":
        device = torch.device("cuda", seat.rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        if not seat.store.startswith("tcp:"):
            os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = _rendezvous(seat)
    options: dict[str, Any] = {"device_id": device} if seat.device == "cuda" else {}
    dist.init_process_group(seat.backend, store=store, rank=seat.rank, world_size=seat.world_size, **options)
    return device


def _rendezvous(seat: Seat) -> dist.Store:
    """Where the ranks find each other: a file on this machine, or a launcher's store as tcp://host:port/prefix."""
    place = urlsplit(seat.store)
    if place.scheme != "tcp":
        return dist.FileStore(seat.store, seat.world_size)
    assert place.hostname is not None
    assert place.port is not None
    return dist.PrefixStore(
        place.path.lstrip("/"), dist.TCPStore(place.hostname, place.port, is_master=False, wait_for_workers=False)
    )


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
            _show_stacks_on(self._stacks)
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
        positions = tuple(owned[shard] for owned in job.positions)
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
        message = f"<its text cannot be had: str() raised {type(inner).__name__}>"
    try:
        frames = traceback.extract_tb(error.__traceback__)
        own = [i for i, frame in enumerate(frames) if frame.filename.startswith(_OWN_FILES)]
        shown = frames[own[-1] + 1 :] if own and own[-1] + 1 < len(frames) else frames
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


def _show_stacks_on(descriptor: int) -> None:
    """From now on SIGUSR1 makes this process write the stack of its main thread there, whatever it is doing."""
    faulthandler.unregister(signal.SIGUSR1)
    faulthandler.register(signal.SIGUSR1, file=descriptor, all_threads=False, chain=False)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
