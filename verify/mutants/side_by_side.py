"""Trials in several processes, each with a bench of its own: while one waits for a hang or a rank, others compute.

Those of one seed go to one process as long as there are other seeds, as it then draws the examples once.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from attention_gate.verify.mutants import MUTANTS, STREAM_MISTAKES
from attention_gate.verify.mutants.trial import Bench, Trial
from attention_gate.verify.rank import process_table as processes
from attention_gate.verify.rank.channel import Channel, readable
from attention_gate.verify.world import fork_client
from attention_gate.verify.world.local import WorldError
from attention_gate.verify.world.signals import shielded

#: Seconds that a process has to end its ranks.
_END_SECONDS = 30.0


@dataclass(frozen=True)
class Task:
    """A mutant, by its name, to be tried at a seed: ``again`` with less patience; ``whole`` with matrix and minimal."""

    name: str
    seed: int
    again: bool = False
    whole: bool = False


def tried(tasks: Sequence[Task], *, profile: str, device: str, jobs: int) -> Iterator[tuple[Task, Trial]]:
    """Each task with its trial as soon as it is done, by that many processes; WorldError if one of them fails.

    >>> for task, trial in tried([Task("M01", 0), Task("M02", 0)], profile="quick", device="cpu", jobs=2):
    ...     task.name, trial.caught
    """
    left: dict[int, list[Task]] = {}
    for task in tasks:
        left.setdefault(task.seed, []).append(task)
    workers: list[_Worker] = []
    try:
        for _ in range(max(1, min(jobs, len(tasks)))):
            workers.append(_Worker(profile, device))
        for worker in workers:
            worker.give(left)
        while busy := [worker for worker in workers if worker.task is not None]:
            for worker in readable(busy, _LONG):
                done = worker.task
                trial = worker.trial()
                worker.give(left)
                assert done is not None
                yield done, trial
    finally:
        with shielded():
            for worker in workers:
                worker.end()


#: Seconds after which the wait for an answer is begun again.
_LONG = 3600.0


class _Worker:
    """A process with a bench, and the task that it works on."""

    def __init__(self, profile: str, device: str) -> None:
        self.task: Task | None = None
        self._seed: int | None = None
        self._channel, theirs = Channel.pair()
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__name__} import serve; serve"
        try:
            with shielded():
                self._process = subprocess.Popen(
                    [sys.executable, "-c", f"{code}({theirs.fileno()}, {os.getpid()}, {profile!r}, {device!r})"],
                    stdin=subprocess.DEVNULL,
                    env=os.environ | processes.ONE_THREAD,
                    pass_fds=[theirs.fileno()],
                )
        except BaseException:
            self._channel.close()
            raise
        finally:
            theirs.close()

    def fileno(self) -> int:
        """Readable once it has an answer, or has ended."""
        return self._channel.fileno()

    def give(self, left: dict[int, list[Task]]) -> None:
        """Let it do one of the tasks that are left, by seed: of its own seed, or one that it begins."""
        if self._seed not in left:  # the seed that has most tasks left: none has been begun, or all have
            self._seed = max(left, key=lambda seed: len(left[seed]), default=None)
        self.task = None
        if self._seed is not None:
            self.task = left[self._seed].pop(0)
            if not left[self._seed]:
                del left[self._seed]
            with contextlib.suppress(OSError):  # that it is gone shows when its answer is awaited
                self._channel.send(self.task)

    def trial(self) -> Trial:
        """What came of its task; waits for it."""
        assert self.task is not None
        try:
            answer = self._channel.receive()
        except (EOFError, OSError):
            raise WorldError(f"the process that tried {self.task.name} has ended") from None
        if not isinstance(answer, Trial):
            raise WorldError(f"{self.task.name} could not be tried: {answer}")
        return answer

    def end(self) -> None:
        """End the process, its bench and all ranks."""
        self._channel.close()
        if self.task is not None:
            self._process.terminate()
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def serve(descriptor: int, parent: int, profile: str, device: str) -> None:
    """Try what comes by the channel until its other end is closed, or the parent has ended."""
    processes.die_with(parent)
    signal.signal(signal.SIGTERM, _interrupt)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to the whole group; who gives the tasks says when to end
    fork_client.start_early()
    channel = Channel.of(descriptor)
    by_name = {mutant.name: mutant for mutant in (*MUTANTS, *STREAM_MISTAKES)}
    try:
        with Bench(profile=profile, device=device) as bench:
            while True:
                task: Task = channel.receive()
                channel.send(_answer(bench, by_name[task.name], task))
    except (EOFError, OSError, KeyboardInterrupt):
        pass
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        fork_client.shut_down()
        os._exit(0)


def _answer(bench: Bench, mutant: Any, task: Task) -> Trial | str:
    try:
        bench.start()
        if task.again:
            return bench.again(mutant, seed=task.seed)
        return bench.trial(mutant, seed=task.seed, matrix=task.whole, shrink=task.whole)
    except WorldError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt
