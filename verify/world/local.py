"""A world on this machine: one persistent process per rank, replaced after a crash or a hang."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess
from typing import Any

from verify.world import worker
from verify.world.messages import Died, Job, Raised, Reply, Returned, Run, Stuck
from verify.world.pace import Activity, Pace

START_SECONDS = 120.0
LOAD_SECONDS = 120.0
_OUTPUT_KEPT = 8192
_POLL_SECONDS = 0.1


class WorldError(Exception):
    """The harness could not set up a world; the message says what to do."""


class LocalWorld:
    """Processes for the ranks 0 … size-1, started at the first job and kept.

    >>> with LocalWorld(2) as world:
    ...     run = world.run(job)

    ``device`` is "cpu" (gloo) or "cuda" (NCCL, one GPU per rank). After a run that did not return on every rank the
    processes are replaced, as nobody knows what state they are in.
    """

    def __init__(self, size: int, *, device: str = "cpu", backend: str | None = None) -> None:
        self.size = size
        self.device = device
        self.backend = backend or ("nccl" if device == "cuda" else "gloo")
        self.pace = Pace(device)
        self.starts = 0
        self._members: list[_Member] = []
        self._folder: str | None = None
        self._job: Job | None = None

    def __enter__(self) -> LocalWorld:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the processes and wait until they have joined; WorldError if they do not."""
        if self._members:
            return
        self.starts += 1
        self._folder = tempfile.mkdtemp(prefix="attention-gate-")
        context = _context(self.device)
        store = os.path.join(self._folder, "store")
        try:
            for rank in range(self.size):
                seat = worker.Seat(rank, self.size, store, self.device, self.backend)
                self._members.append(_Member(context, seat))
            run = self._collect(time.monotonic(), _Limits(START_SECONDS, START_SECONDS))
        except BaseException:
            self.close()
            raise
        if run.outcome != "returned":
            self.close()
            raise WorldError(_why_no_world(self.size, self.backend, run))

    def close(self) -> None:
        """End the processes, remove what they left; safe to call at any time and more than once."""
        members, self._members = self._members, []
        for member in members:
            member.dismiss()
        for member in members:
            member.end()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None

    def submit(self, job: Job) -> None:
        """Send the job to every rank; ``collect`` waits for its replies."""
        self.start()
        self._job = job
        for member in self._members:
            with contextlib.suppress(OSError):  # a dead process is reported when its reply is collected
                member.jobs.send(job)

    def collect(self) -> Run:
        """The run of the job that was submitted last."""
        assert self._job is not None
        if self._job.procedure == "load":
            limits = _Limits(LOAD_SECONDS, LOAD_SECONDS)
        else:
            limits = _Limits(self.pace.resting, self.pace.busy)
        self._job = None
        try:
            run = self._collect(time.monotonic(), limits)
        except BaseException:
            self.close()
            raise
        if run.outcome == "returned":
            self.pace.saw(run.seconds)
        else:
            self.close()
        return run

    def run(self, job: Job) -> Run:
        """Submit the job and collect its run."""
        self.submit(job)
        return self.collect()

    @contextlib.contextmanager
    def hurried(self) -> Iterator[None]:
        """Within: a hang is declared sooner, as when many cases that are likely to hang are tried in a row."""
        before, self.pace.hurried = self.pace.hurried, True
        try:
            yield
        finally:
            self.pace.hurried = before

    def _collect(self, start: float, limits: _Limits) -> Run:
        replies: dict[int, Reply] = {}
        activity = Activity()
        failed_at: float | None = None
        while len(replies) < self.size:
            pending = [member for member in self._members if member.rank not in replies]
            ready = wait([member.jobs for member in pending], timeout=_POLL_SECONDS)
            for member in pending:
                if member.jobs in ready:
                    replies[member.rank] = reply = member.reply()
                    if isinstance(reply, Raised | Died):
                        failed_at = failed_at or time.monotonic()
            now = time.monotonic()
            if failed_at is not None and now - failed_at > Pace.after_failure:
                break
            if not ready and now - start > _POLL_SECONDS:
                rest = activity.rest(member.process.pid or 0 for member in pending)
                if rest > limits.resting or now - start > limits.busy:
                    break
        for member in self._members:
            if member.rank not in replies:
                replies[member.rank] = member.stuck()
        return Run(tuple(replies[rank] for rank in range(self.size)), time.monotonic() - start)


class Worlds:
    """Worlds by size, each started when it is first needed."""

    def __init__(self, *, device: str = "cpu", backend: str | None = None) -> None:
        self.device = device
        self.backend = backend
        self._worlds: dict[int, LocalWorld] = {}

    def __enter__(self) -> Worlds:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getitem__(self, size: int) -> LocalWorld:
        if size not in self._worlds:
            self._worlds[size] = LocalWorld(size, device=self.device, backend=self.backend)
        return self._worlds[size]

    @contextlib.contextmanager
    def hurried(self) -> Iterator[None]:
        """As LocalWorld.hurried, for all of them."""
        with contextlib.ExitStack() as stack:
            for world in self._worlds.values():
                stack.enter_context(world.hurried())
            yield

    def close(self) -> None:
        """Close every world."""
        for world in self._worlds.values():
            world.close()


class _Limits:
    def __init__(self, resting: float, busy: float) -> None:
        self.resting = resting
        self.busy = busy


class _Member:
    """The gate's end of one worker: its process, the pipe of jobs, what it prints, its stack on demand."""

    def __init__(self, context: BaseContext, seat: worker.Seat) -> None:
        self.rank = seat.rank
        self.jobs, theirs = context.Pipe()
        output, their_output = context.Pipe(duplex=False)
        self._stacks, their_stacks = context.Pipe(duplex=False)
        self.process: BaseProcess = context.Process(  # type: ignore[attr-defined]
            target=worker.main,
            args=(seat, theirs, their_output, their_stacks, list(sys.path)),
            name=f"attention-gate-rank-{seat.rank}",
            daemon=True,
        )
        self.process.start()
        for end in (theirs, their_output, their_stacks):
            end.close()
        self._output = _Drain(output)

    def reply(self) -> Reply:
        """What the worker sent; if it ended instead, how."""
        try:
            reply: Reply = self.jobs.recv()
        except (EOFError, OSError):
            self.process.join(timeout=5)
            return Died(_how_it_ended(self.process.exitcode), self._output.text())
        return reply

    def stuck(self) -> Stuck:
        """Where the worker is now, as the stack of its main thread, most recent call last."""
        text = b""
        with contextlib.suppress(OSError):
            os.kill(self.process.pid or 0, signal.SIGUSR1)
            while self._stacks.poll(0.5 if not text else 0.05):
                if not (part := os.read(self._stacks.fileno(), 65536)):
                    break
                text += part
        return Stuck(_readable_stack(text.decode(errors="replace")), self._output.text())

    def dismiss(self) -> None:
        with contextlib.suppress(OSError):
            self.jobs.send(None)
            self.jobs.close()

    def end(self) -> None:
        self.process.join(timeout=0.2)
        if self.process.is_alive():
            self.process.kill()
            self.process.join(timeout=10)
        self._stacks.close()
        self._output.close()


class _Drain:
    """Reads what a worker prints, so that it never blocks on a full pipe, and keeps the end of it."""

    def __init__(self, source: Connection) -> None:
        self._source = source
        self._kept = b""
        self._thread = threading.Thread(target=self._read, name="attention-gate-output", daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):
            while part := os.read(self._source.fileno(), 65536):
                self._kept = (self._kept + part)[-_OUTPUT_KEPT:]

    def text(self) -> str:
        """The end of what was printed so far."""
        time.sleep(0.01)  # let the reader catch up with a worker that has just ended
        return self._kept.decode(errors="replace")

    def close(self) -> None:
        """Stop reading; a child of the worker may hold the other end open for ever, so nobody waits for it."""
        self._thread.join(timeout=0.2)
        if not self._thread.is_alive():
            self._source.close()


def _context(device: str) -> BaseContext:
    """Fork from a server that has torch loaded; CUDA does not survive a fork, so there processes are spawned."""
    if device == "cuda":
        os.environ.setdefault("OMP_NUM_THREADS", "1")
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["verify.world.preload"])
    return context


def _how_it_ended(exitcode: int | None) -> str:
    if exitcode is None:
        return "closed its pipe to the gate"
    if exitcode < 0:
        return f"was killed by {signal.Signals(-exitcode).name}"
    return f"ended its process with exit status {exitcode}"


_FRAME = re.compile(r'^\s*File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)$')
_HARNESS = re.compile(r"/verify/(world|procedures)|/multiprocessing/|<frozen|/runpy\.py$")


def _readable_stack(dump: str) -> str:
    """faulthandler's dump (most recent call first) as a traceback without the harness's own frames."""
    lines = []
    for line in dump.splitlines():
        if match := _FRAME.match(line):
            if _HARNESS.search(match["file"]):
                break
            lines.append(f'  File "{match["file"]}", line {match["line"]}, in {match["function"]}')
    return "\n".join(reversed(lines)) or "  (in the harness itself, or in no Python code)"


def _why_no_world(size: int, backend: str, run: Run) -> str:
    reasons = []
    for rank, reply in enumerate(run.replies):
        if isinstance(reply, Raised):
            reasons.append(f"rank {rank} raised {reply.type}: {reply.message}")
        elif isinstance(reply, Died):
            reasons.append(f"rank {rank} {reply.how}: {reply.output.strip()[-500:]}")
        elif isinstance(reply, Stuck):
            reasons.append(f"rank {rank} did not join within {START_SECONDS:.0f} s")
    return (
        f"a world of {size} {backend} processes could not be started: {'; '.join(reasons[:2])}. "
        "`python -m verify doctor` says what this machine can run."
    )


def replies_of(run: Run, kind: type) -> dict[int, Any]:
    """The replies of one kind, by global rank."""
    return {rank: reply for rank, reply in enumerate(run.replies) if isinstance(reply, kind)}


__all__ = ["LocalWorld", "Returned", "WorldError", "Worlds", "replies_of"]
