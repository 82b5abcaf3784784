"""A world that somebody else launched (torchrun, Slurm): judge inside the processes that are there.

Jobs and replies travel through the rendezvous store, beside the transport that the target uses. Every rank calls the
target from a thread of its own, so that a rank that is stuck can still say where.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist

from verify.world.local import WorldError
from verify.world.messages import Died, Job, Raised, Reply, Run, Stuck
from verify.world.pace import Pace
from verify.world.worker import Rank, Seat

_POLL_SECONDS = 0.002
_STACK_SECONDS = 2.0
_FIRST_SECONDS = 60.0


def launched_by_torchrun() -> bool:
    """Whether the environment names this process's rank and the world's size, as torchrun does."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


class JoinedWorlds:
    """The launched world in the place of worlds of its own: rank 0 judges, the others ``serve``.

    >>> with JoinedWorlds("cpu") as worlds:
    ...     if worlds.rank != 0:
    ...         status = worlds.serve()
    """

    def __init__(self, device: str, *, backend: str | None = None) -> None:
        self.device = device
        self.backend = backend or ("nccl" if device == "cuda" else "gloo")
        self.pace = Pace(device)
        store, self.rank, self.size = next(dist.rendezvous("env://"))
        self._store = dist.PrefixStore("attention-gate", store)
        seat = Seat(self.rank, self.size, "", device, self.backend)
        local = int(os.environ.get("LOCAL_RANK", self.rank))
        self._device = torch.device("cuda", local) if device == "cuda" else torch.device("cpu")
        options: dict[str, Any] = {"device_id": self._device} if device == "cuda" else {}
        dist.init_process_group(self.backend, store=store, rank=self.rank, world_size=self.size, **options)
        self._caller = _Caller(Rank(seat, self._device))
        self._count = 0
        self._stuck = False
        self._job: Job | None = None

    def __enter__(self) -> JoinedWorlds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, size: int) -> JoinedWorlds:
        if size != self.size:
            raise WorldError(f"a world of {size} was asked for, but {self.size} ranks were launched")
        return self

    def notes(self) -> tuple[str, ...]:
        """Nothing: these processes are never replaced."""
        return ()

    @contextlib.contextmanager
    def hurried(self) -> Iterator[None]:
        """Nothing is hurried here: a launched world cannot be replaced."""
        yield

    def submit(self, job: Job) -> None:
        """Give the job to every rank; only rank 0 does."""
        if self._stuck:
            raise WorldError("a rank of the launched world is stuck or gone, and only its launcher can replace it")
        self._count += 1
        self._put(f"job/{self._count}", job)
        self._job = job
        self._caller.start(job)

    def collect(self) -> Run:
        """The run of the job that was submitted last."""
        start = time.monotonic()
        limit = max(self.pace.busy, _FIRST_SECONDS if self._count <= 2 else 0.0)
        replies: dict[int, Reply] = {}
        failed_at: float | None = None
        while len(replies) < self.size:
            for rank in range(self.size):
                if rank not in replies and (reply := self._reply(rank)) is not None:
                    replies[rank] = reply
                    if isinstance(reply, Raised | Died):
                        failed_at = failed_at or time.monotonic()
            now = time.monotonic()
            if now - start > limit or (failed_at is not None and now - failed_at > 10 * Pace.after_failure):
                self._give_up(replies)
                break
            time.sleep(_POLL_SECONDS)
        run = Run(tuple(replies[rank] for rank in range(self.size)), time.monotonic() - start)
        if run.outcome == "returned":
            self.pace.saw(run.seconds)
        return run

    def run(self, job: Job) -> Run:
        """Submit the job and collect its run."""
        self.submit(job)
        return self.collect()

    def serve(self) -> int:
        """Run jobs until rank 0 dismisses the world; returns the exit status that rank 0 gave."""
        while True:
            self._count += 1
            job = self._next_job()
            if isinstance(job, int):
                return job
            self._caller.start(job)
            while (reply := self._caller.reply()) is None:
                if self._store.check([f"give-up/{self._count}"]):
                    reply = Stuck(self._caller.stack(), "")
                    self._stuck = True
                    break
                time.sleep(_POLL_SECONDS)
            self._put(f"reply/{self._count}/{self.rank}", reply)

    def dismiss(self, status: int) -> None:
        """End ``serve`` on all other ranks with that exit status; waits until they have heard."""
        self._count += 1
        self._put(f"job/{self._count}", status)
        deadline = time.monotonic() + 10 * _STACK_SECONDS
        heard = [f"heard/{rank}" for rank in range(1, self.size)]
        while heard and not self._store.check(heard) and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)

    def close(self) -> None:
        """Leave the world. A process whose target is stuck cannot leave in order and ends at once."""
        if self._stuck:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(1)
        dist.destroy_process_group()

    def _put(self, key: str, value: object) -> None:
        self._store.set(key, pickle.dumps(value))  # type: ignore[arg-type]  # it takes bytes, whatever its stub says

    def _next_job(self) -> Job | int:
        key = f"job/{self._count}"
        while not self._store.check([key]):
            time.sleep(_POLL_SECONDS)
        job: Job | int = pickle.loads(self._store.get(key))
        if isinstance(job, int):
            self._store.set(f"heard/{self.rank}", "")
        return job

    def _reply(self, rank: int) -> Reply | None:
        if rank == self.rank:
            return self._caller.reply()
        key = f"reply/{self._count}/{rank}"
        if not self._store.check([key]):
            return None
        reply: Reply = pickle.loads(self._store.get(key))
        self._store.delete_key(key)
        return reply

    def _give_up(self, replies: dict[int, Reply]) -> None:
        self._stuck = True
        self._store.set(f"give-up/{self._count}", "")
        deadline = time.monotonic() + _STACK_SECONDS
        while len(replies) < self.size and time.monotonic() < deadline:
            for rank in range(self.size):
                if rank not in replies and rank != self.rank and (reply := self._reply(rank)) is not None:
                    replies[rank] = reply
            time.sleep(_POLL_SECONDS)
        for rank in range(self.size):
            if rank not in replies:
                own = self._caller.stack() if rank == self.rank else "  (it did not answer)"
                replies[rank] = Stuck(own, "")


class _Caller:
    """Runs jobs in a thread of its own; its reply, or where it is, can be asked for at any time."""

    def __init__(self, rank: Rank) -> None:
        self._rank = rank
        self._reply: Reply | None = None
        self._thread: threading.Thread | None = None

    def start(self, job: Job) -> None:
        self._reply = None
        self._thread = threading.Thread(target=self._answer, args=(job,), daemon=True)
        self._thread.start()

    def reply(self) -> Reply | None:
        return self._reply

    def stack(self) -> str:
        assert self._thread is not None
        frame = sys._current_frames().get(self._thread.ident or 0)
        if frame is None:
            return "  (in no Python code)"
        frames = [f for f in traceback.extract_stack(frame) if not _is_harness(f.filename)]
        return "\n".join(f'  File "{f.filename}", line {f.lineno}, in {f.name}' for f in frames)

    def _answer(self, job: Job) -> None:
        if self._rank.device.type == "cuda":
            torch.cuda.set_device(self._rank.device)  # the current device is a thread's own
        self._reply = self._rank.answer(job)


def _is_harness(filename: str) -> bool:
    return filename == threading.__file__ or os.path.join("verify", "world") in filename or "procedures" in filename
