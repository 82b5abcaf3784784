"""The rows of the tables, each measured in separate processes: one that crashes or hangs costs only itself."""

from __future__ import annotations

import time
from collections.abc import Generator, Sequence
from typing import Any

from attention_gate.verify.compare import timing
from attention_gate.verify.rank.jobs import Job
from attention_gate.verify.target.source import Source
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.local import LocalWorld

_MEASURED = Source(timing.__name__, None, timing.measured.__name__)


def measure(
    row: str, workloads: Sequence[str], device: str, world_size: int, seconds: float, as_graphs: bool = False
) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """What the floor or a target measures on each workload, as soon as it is known.

    >>> for workload, entry in measure("impls.robust:attend", ["tiny"], "cpu", 2, seconds=120.0):
    ...     entry.get("both_ms"), entry.get("error")

    Passes are timed call by call, or ``as_graphs``, captured in CUDA graphs. All workloads together may take
    ``seconds``. What could not be measured has the reason as "error", and what the target does not support as
    "refused". WorldError if the ranks cannot be started.
    """
    deadline = time.monotonic() + seconds
    with LocalWorld(world_size, device=device) as world:
        for name in workloads:
            left = deadline - time.monotonic()
            yield (
                name,
                _entry(world, row, name, left, as_graphs)
                if left > 0
                else {"error": f"did not finish within {seconds:.0f} s"},
            )


def _entry(world: LocalWorld, row: str, workload: str, seconds: float, as_graphs: bool) -> dict[str, Any]:
    options = {"workload": workload, "row": row, "as_graphs": as_graphs}
    run = world.run(Job("function", _MEASURED, (), (), options, seconds=seconds))
    if finding := finding_of(run):
        return {"error": f"{finding.headline}"[:300]}
    entry: dict[str, Any] = run.value(0)
    return entry
