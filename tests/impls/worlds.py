"""Persistent worlds of processes that run one function of this package's `tasks` at a time, each rank its own part.

A world is started once for each size and kept. Every wait has a deadline; a world that misses it, or in which a process
dies, is killed and replaced, and the test fails with what each rank had to say.
"""

import contextlib
import multiprocessing
import os
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

_DEADLINE = 60.0


@dataclass
class Raised:
    """What a rank's function raised, in place of its result."""

    kind: str
    text: str
    trace: str


class World:
    """So many processes, each a rank of one group: of gloo, or of NCCL where each has a GPU of its own."""

    def __init__(self, size: int, device: str = "cpu") -> None:
        self.size, self.device = size, device
        os.environ["OMP_NUM_THREADS"] = "1"
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["torch", "torch.distributed", "numpy"])
        self._folder = tempfile.TemporaryDirectory()
        self._pipes: list[Connection] = []
        self._processes = []
        for rank in range(size):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(theirs, rank, size, device, self._folder.name), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, function: Callable[..., Any], *arguments: Any, deadline: float = _DEADLINE) -> list[Any]:
        """Return what `function(rank, *arguments)` returned on each rank, or a `Raised` where it raised."""
        for pipe in self._pipes:
            pipe.send((function, arguments))
        results: dict[int, Any] = {}
        end = time.monotonic() + deadline
        while len(results) < self.size:
            pending = [pipe for rank, pipe in enumerate(self._pipes) if rank not in results]
            ready = wait(pending, timeout=max(0.0, end - time.monotonic()))
            if not ready:
                self.close()
                raise TimeoutError(f"no answer within {deadline} s; the ranks that answered: {results}")
            for pipe in ready:
                assert isinstance(pipe, Connection)
                rank = self._pipes.index(pipe)
                try:
                    results[rank] = pipe.recv()
                except EOFError:
                    self.close()
                    raise RuntimeError(f"rank {rank} died; the ranks that answered: {results}") from None
        return [results[rank] for rank in range(self.size)]

    def close(self) -> None:
        """Kill the processes."""
        for process in self._processes:
            process.kill()
        for process in self._processes:
            process.join()
        for pipe in self._pipes:
            pipe.close()
        self._folder.cleanup()
        _worlds.pop((self.size, self.device), None)


_worlds: dict[tuple[int, str], World] = {}


def world(size: int, device: str = "cpu") -> World:
    """Return the world of this size, started if need be."""
    if (size, device) not in _worlds:
        _worlds[size, device] = World(size, device)
    return _worlds[size, device]


def close_all() -> None:
    """Kill all worlds."""
    for running in list(_worlds.values()):
        running.close()


def results(size: int, function: Callable[..., Any], *arguments: Any, device: str = "cpu") -> list[Any]:
    """Run on a world of this size and return each rank's result; fail with the trace of a rank that raised."""
    answers = world(size, device).run(function, *arguments)
    raised = [f"rank {rank}: {answer.trace}" for rank, answer in enumerate(answers) if isinstance(answer, Raised)]
    assert not raised, "\n".join(raised)
    return answers


def _serve(pipe: Connection, rank: int, size: int, device: str, folder: str) -> None:
    warnings.simplefilter("error")
    import torch
    import torch.distributed as dist

    torch.set_num_threads(1)
    store = dist.FileStore(os.path.join(folder, "store"), size)
    if device == "cuda":
        torch.cuda.set_device(rank)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    with contextlib.suppress(EOFError):
        while True:
            function, arguments = pipe.recv()
            try:
                answer = function(rank, *arguments)
            except Exception as error:
                answer = Raised(type(error).__name__, str(error), traceback.format_exc())
            pipe.send(answer)
