"""What this machine can run: versions, backends, devices, and a small real exchange in each world size."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.data import rows
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.rank import memory_limits
from attention_gate.verify.rank.jobs import Job
from attention_gate.verify.target.layouts import contiguous
from attention_gate.verify.target.source import Source
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.local import LocalWorld, WorldError

#: Versions that are supported: from the first on, below the second. The package's own metadata say the same.
SUPPORTED = {"python": ("3.11", "3.14"), "torch": ("2.11", "2.14"), "numpy": ("2.0", None)}

#: World sizes that a real exchange is tried in.
WORLD_SIZES = (1, 2, 4)

#: What a world of four ranks and the gate itself take, in bytes.
_MEMORY_NEEDED = 2 << 30


@dataclass(frozen=True)
class Fact:
    """One fact about this machine: name, value, whether it is good enough, and advice.

    ``needed`` says whether the gate on the CPU depends on it.
    """

    name: str
    found: str
    good: bool = True
    advice: str = ""
    needed: bool = True

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "name": self.name,
            "found": self.found,
            "good": self.good,
            "needed": self.needed,
            "advice": self.advice,
        }


def facts(world_sizes: Sequence[int] = WORLD_SIZES) -> Iterator[Fact]:
    """The facts, each as soon as it is known: worlds take seconds."""
    for name, version in (
        ("python", platform.python_version()),
        ("torch", torch.__version__),
        ("numpy", np.__version__),
    ):
        yield version_fact(name, version)
    yield Fact("cores", str(cores()))
    yield _memory()
    yield from _backends()
    for size in world_sizes:
        yield world_fact(size)
    yield _cuda_world()


def can_run(found: Sequence[Fact]) -> bool:
    """Whether the gate can run on the CPU."""
    return all(fact.good for fact in found if fact.needed)


def version_fact(name: str, version: str) -> Fact:
    """Whether a version is in the supported range."""
    low, high = SUPPORTED[name]
    good = _number(low) <= _number(version) and (high is None or _number(version) < _number(high))
    wanted = f">={low}" + (f",<{high}" if high else "")
    how = f"run it with a Python {wanted}" if name == "python" else f'pip install "{name}{wanted}"'
    return Fact(name, version, good, "" if good else f"supported is {wanted}: {how}")


def world_fact(size: int, device: str = "cpu", backend: str | None = None) -> Fact:
    """Start a world, let every rank exchange rows with its neighbours and check what arrived."""
    name = f"world of {size}" if device == "cpu" else f"world of {size} on {device}"
    needed = device == "cpu"
    start = time.monotonic()
    try:
        with LocalWorld(size, device=device, backend=backend) as world:
            world.start()
            started = time.monotonic() - start
            case = Case(world_size=size, length=2 * size, segment_lengths=(2 * size,), requires_grad="")
            owned = tuple(contiguous(rank, size, case.length) for rank in range(size))
            run = world.run(
                Job("attend", Source(__name__, None, exchange.__name__), (case,), (Positions.as_many(owned),))
            )
    except (WorldError, OSError) as error:
        return Fact(name, "could not be started", False, str(error), needed)
    if finding := finding_of(run):
        return Fact(name, finding.headline, False, "; ".join(finding.details) or _ASK, needed)
    for rank in range(size):
        wanted = rows(case, "query", owned[rank - 1])
        got = run.value(rank).arrays["out"]
        if got is None or not np.array_equal(got, wanted):
            return Fact(name, f"rank {rank} did not receive the rows that its neighbour sent", False, _ASK, needed)
    return Fact(name, f"started in {started:.1f} s, exchanged in {1000 * run.seconds:.0f} ms", needed=needed)


_ASK = "the transport corrupts messages; try another build of torch"


def exchange(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, **options: Any) -> torch.Tensor:
    """The rows of the rank before this one, by point-to-point operations, then checked to be everyone's by a sum."""
    rank, size = dist.get_rank(), dist.get_world_size()
    received = query.clone()
    if size > 1:
        operations = [
            dist.P2POp(dist.isend, query.contiguous(), (rank + 1) % size),
            dist.P2POp(dist.irecv, received, (rank - 1) % size),
        ]
        for work in dist.batch_isend_irecv(operations):
            work.wait()
    total = torch.ones(1, device=query.device)
    dist.all_reduce(total)
    if int(total) != size:
        raise RuntimeError(f"a sum over {size} ranks came to {float(total)}")
    return received


def _memory() -> Fact:
    free = memory_limits.available()
    if free is None:
        return Fact("free memory", "this system does not say", needed=False)
    advice = "" if free >= _MEMORY_NEEDED else "worlds of four ranks take some 2 GiB: judge with --world-sizes 1,2"
    return Fact("free memory", f"{free / (1 << 30):.1f} GiB", free >= _MEMORY_NEEDED, advice, needed=False)


def _backends() -> Iterator[Fact]:
    here = dist.is_available() and dist.is_gloo_available()
    yield Fact("gloo", "there" if here else "missing", here, "" if here else "install a build of torch that has gloo")
    here = dist.is_available() and dist.is_nccl_available()
    advice = "" if here else "only --device cuda needs it: install a CUDA build of torch"
    yield Fact("nccl", "there" if here else "missing", here, advice, needed=False)
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    devices = ", ".join(torch.cuda.get_device_name(k) for k in range(count)) or "none"
    advice = "" if count else "only --device cuda needs them"
    yield Fact("CUDA devices", devices, count > 0, advice, needed=False)


def _cuda_world() -> Fact:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not (count and dist.is_nccl_available()):
        return Fact("world on cuda", "not tried", False, "it needs NCCL and CUDA devices", needed=False)
    return world_fact(2, "cuda")


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _number(version: str) -> tuple[int, ...]:
    """Major and minor number."""
    return tuple(int(part) for part in version.split("+")[0].split(".")[:2])
