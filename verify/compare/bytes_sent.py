"""How many bytes one rank sends to others in one call, forward and backward: counted by NVLink, or simulated."""

from __future__ import annotations

from contextlib import closing

from attention_gate.verify.case.case import Case
from attention_gate.verify.compare.timing import refusal
from attention_gate.verify.compare.workloads import WORKLOADS, Workload
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import Schedule
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.source import TargetError
from attention_gate.verify.world.local import Worlds


def simulated(path: str, name: str, world_size: int) -> int | None:
    """The most that any rank sends in a call of the workload, on the simulated network; None if it does not return."""
    target, source = as_target(path)
    if refusal(target, WORKLOADS[name]):
        return None
    with Worlds() as worlds, closing(SimulatedWorlds()) as network:
        case = whole(WORKLOADS[name], world_size)
        try:
            session = Session(target, source, worlds, (world_size,), network=network)
            case = session.fitted(case.replace(requires_grad="qkv" if target.gradients else ""))
            run = simulate(session, case, schedule=Schedule("stream"), judged=False)
        except TargetError:
            return None
    if run.finding is not None:
        return None
    return max(run.trace.load(rank).bytes_sent for rank in range(world_size))


def whole(workload: Workload, world_size: int) -> Case:
    """The workload itself as a case."""
    return Case(
        world_size=world_size,
        length=workload.rows * world_size,
        heads=workload.heads,
        kv_heads=workload.heads,
        head_dim=workload.head_dim,
        value_dim=workload.head_dim,
        segment_lengths=workload.lengths(world_size),
        dilation_rates=workload.dilation_rates,
        is_causal=workload.is_causal,
        dtype=workload.dtype,
        **workload.terms(world_size),
    )
