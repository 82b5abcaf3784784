"""Who computes, waits and sends when: each target on the simulated network, in a small call of a workload's shape."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass

from attention_gate.verify.case.case import Case
from attention_gate.verify.compare.timing import refusal
from attention_gate.verify.compare.workloads import WORKLOADS, Workload
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import Schedule
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.network.trace import Trace
from attention_gate.verify.report.pictures import svg
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.source import TargetError
from attention_gate.verify.world.local import Worlds

#: As many lanes as fit on a page.
MOST_RANKS = 16

#: Rows of each rank, and the width of query, key and value: as little as shows when messages travel.
_ROWS, _HEADS, _HEAD_DIM = 16, 2, 32

#: The strictest delivery: what would stand still on GPUs does so here.
_MODEL = "stream"


@dataclass(frozen=True)
class Drawing:
    """One target on one workload. ``words`` say what went wrong in its run, or why there is none."""

    title: str
    trace: Trace | None
    words: tuple[str, ...] = ()

    @property
    def stopped(self) -> bool:
        """Whether the target ran and did not come to its end."""
        return self.trace is not None and bool(self.words)


def check_size(world_size: int) -> None:
    """ValueError if there are too many ranks to draw."""
    if world_size > MOST_RANKS:
        raise ValueError(f"--timelines draws at most {MOST_RANKS} ranks, and --world-size is {world_size}")


def drawings(targets: Sequence[str], workloads: Sequence[str], world_size: int) -> list[Drawing]:
    """Run each target once on a small case of each workload; a hang is reported, values are not judged."""
    found = []
    for path in targets:
        target, source = as_target(path)
        with Worlds() as worlds, closing(SimulatedWorlds()) as network:
            for name in workloads:
                title = path if len(workloads) == 1 else f"{path}, {name}"
                if reason := refusal(target, WORKLOADS[name]):
                    found.append(Drawing(title, None, (f"not drawn: {reason}",)))
                    continue
                try:
                    session = Session(target, source, worlds, (world_size,), network=network)
                    found.append(_drawing(title, session, small(WORKLOADS[name], world_size)))
                except TargetError as error:
                    found.append(Drawing(title, None, (f"not drawn: {error}",)))
    return found


def _drawing(title: str, session: Session, case: Case) -> Drawing:
    target = session.target
    case = session.fitted(case.replace(requires_grad="qkv" if target.gradients else ""))
    run = simulate(session, case, schedule=Schedule(_MODEL), judged=False, count_work=True)
    if run.finding is None:
        return Drawing(title, run.trace)
    return Drawing(title, run.trace, (run.finding.headline, *run.finding.details))


def small(workload: Workload, world_size: int) -> Case:
    """A case with the workload's mask, dtype, dilation rates and segments, these as large beside a rank's rows."""
    rows = min(_ROWS, workload.rows)
    return Case(
        world_size=world_size,
        length=rows * world_size,
        heads=_HEADS,
        kv_heads=_HEADS,
        head_dim=_HEAD_DIM,
        value_dim=_HEAD_DIM,
        segment_lengths=tuple(max(1, length * rows // workload.rows) for length in workload.lengths(world_size)),
        dilation_rates=workload.dilation_rates,
        is_causal=workload.is_causal,
        dtype=workload.dtype,
    )


def picture(drawn: Sequence[Drawing]) -> str:
    """The runs below each other as SVG; below its title, what went wrong in one."""
    return svg([("\n".join((one.title, *one.words[:1])), one.trace) for one in drawn if one.trace is not None])


def text(drawn: Sequence[Drawing]) -> str:
    """What is said of those targets that did not come to their end, or are not drawn; empty if there are none."""
    return "\n".join(f"{one.title}: " + "\n  ".join(one.words) for one in drawn if one.words)
