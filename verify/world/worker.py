"""One rank: a process that joins the world, takes jobs from a pipe, and answers each on that pipe."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist

from verify.procedures import Call, procedure
from verify.target import Source, load
from verify.world.messages import Job, Raised, Reply, Returned

_PR_SET_PDEATHSIG = 1
_OWN_FILES = tuple(os.path.join(os.path.dirname(os.path.dirname(__file__)), name) for name in ("procedures", "world"))


@dataclass(frozen=True)
class Seat:
    """Where a worker sits: its rank, the world's size, the rendezvous file, device and backend."""

    rank: int
    world_size: int
    store: str
    device: str
    backend: str


def main(seat: Seat, jobs: Connection, output: Connection, stacks: Connection, path: list[str]) -> None:
    """Serve jobs until the pipe closes. Runs in a process of its own and ends it."""
    _die_with_the_gate()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the gate's to handle
    sys.path[:] = path
    sys.stdout.flush()
    os.dup2(output.fileno(), 1)
    os.dup2(output.fileno(), 2)
    faulthandler.register(signal.SIGUSR1, file=stacks.fileno(), all_threads=False, chain=False)
    torch.set_num_threads(1)
    try:
        device = join(seat)
    except BaseException as error:
        jobs.send(_raised(error, 0.0))
        os._exit(1)
    jobs.send(Returned(None, 0.0))
    rank = Rank(seat, device)
    while True:
        try:
            job = jobs.recv()
        except (EOFError, OSError):
            break
        if job is None:
            break
        reply = rank.answer(job)
        _flush()
        jobs.send(reply)
    # Neither the target's threads nor its exit handlers may keep the process.
    os._exit(0)


def join(seat: Seat) -> torch.device:
    """Initialise the default process group; returns the device that this rank computes on."""
    if seat.device == "cuda":
        device = torch.device("cuda", seat.rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(seat.store, seat.world_size)
    options: dict[str, Any] = {"device_id": device} if seat.device == "cuda" else {}
    dist.init_process_group(seat.backend, store=store, rank=seat.rank, world_size=seat.world_size, **options)
    return device


class Rank:
    """A rank that has joined its world: runs jobs, keeps the loaded targets and the sub-groups."""

    def __init__(self, seat: Seat, device: torch.device) -> None:
        self.seat = seat
        self.device = device
        self._groups: dict[tuple[int, ...], Any] = {}

    def answer(self, job: Job) -> Reply:
        """Run one job; whatever it raises is the reply."""
        start = time.perf_counter()
        try:
            value = self._perform(job)
        except BaseException as error:
            return _raised(error, time.perf_counter() - start)
        finally:
            torch.set_grad_enabled(True)
            torch.set_default_dtype(torch.float32)
        return Returned(value, time.perf_counter() - start)

    def _perform(self, job: Job) -> Any:
        run = procedure(job.procedure)
        if not job.cases:
            return run(Call(_attend(job.source), (), (), None, self.device, 0, job.options))
        ranks = job.cases[0].ranks
        group = self._group(job.cases[0].group)
        if self.seat.rank not in ranks:
            return None
        shard = ranks.index(self.seat.rank)
        positions = tuple(owned[shard] for owned in job.positions)
        return run(Call(_attend(job.source), job.cases, positions, group, self.device, shard, job.options))

    def _group(self, ranks: tuple[int, ...] | None) -> Any:
        if ranks is None:
            return None
        if ranks not in self._groups:
            self._groups[ranks] = dist.new_group(list(ranks))  # every rank of the world passes here
        return self._groups[ranks]


def _attend(source: Source) -> Any:
    return load(source).attend


def _raised(error: BaseException, seconds: float) -> Raised:
    """The exception as plain text: it may not be picklable, and its own repr may raise."""
    try:
        message = str(error)
    except BaseException as inner:
        message = f"<its text cannot be had: str() raised {type(inner).__name__}>"
    try:
        frames = traceback.extract_tb(error.__traceback__)
        own = [i for i, frame in enumerate(frames) if frame.filename.startswith(_OWN_FILES)]
        shown = frames[own[-1] + 1 :] if own and own[-1] + 1 < len(frames) else frames
        text = "".join(traceback.format_list(shown)[-12:])
    except BaseException:
        text = ""
    return Raised(type(error).__name__, message, text, seconds)


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()


def _die_with_the_gate() -> None:
    """Ask Linux to kill this process when its parent ends, however that ends and whatever the target is doing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
