"""What goes over the wire, counted byte by byte on the simulated network, at sizes where rows dominate."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.byte_bounds import METADATA, Allowance, least, most
from attention_gate.verify.network.trace import Trace
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.finding import Finding

#: A claim of least traffic may be missed by this part.
TOLERANCE = 0.02

#: Bytes of one row of key and value of one kv head, half as many in half types: so many that nothing else counts.
_ROW_BYTES = 16384


def widened(case: Case, session: Session) -> Case:
    """The same case with rows so wide that they make up nearly all that is sent."""
    columns = _ROW_BYTES // (8 if case.dtype == "float64" else 4)
    key = columns // 2 if case.head_dim == case.value_dim else columns * 3 // 8
    return session.fitted(case.replace(batch=1, head_dim=key, value_dim=columns - key))


def _wire(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """No rank sends or receives more than in a dense ring."""
    case = widened(case, session)
    positions = session.positions(case)

    def allowed(stage: str) -> list[Allowance]:
        bound = most(case, positions, stage)
        return [Allowance(bound, bound)] * case.shards

    return _judged(session, case, {stage: allowed(stage) for stage in _stages(case)}, 0.0, "a dense ring moves")


def _traffic(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """No rank sends or receives a row that is not needed, or one twice."""
    case = widened(case, session)
    positions = session.positions(case)
    bounds = {stage: least(case, session.target.dialect, positions, stage) for stage in _stages(case)}
    return _judged(session, case, bounds, TOLERANCE, "rows that are needed make up")


def _stages(case: Case) -> tuple[str, ...]:
    return ("forward", "backward") if case.requires_grad else ("forward",)


def _judged(session: Session, case: Case, bounds: dict[str, list[Allowance]], tolerance: float, words: str) -> Verdict:
    simulation = simulate(session, case, judged=False)
    if simulation.finding is not None:
        return Verdict(np.inf, simulation.finding)
    besides = METADATA * (case.shards - 1)
    budget_used, finding = 0.0, None
    for stage, allowances in bounds.items():
        for rank, allowance in zip(case.ranks, allowances, strict=True):
            load = simulation.trace.load(rank, [stage])
            for verb, moved, bound, messages in (
                ("receives", load.bytes_received, allowance.received, load.messages_received),
                ("sends", load.bytes_sent, allowance.sent, load.messages_sent),
            ):
                limit = bound * (1 + tolerance) + besides
                share = moved / limit if limit else float(moved > 0)
                if share > max(budget_used, 1.0):
                    factor = f", {moved / bound:.2f} times as much" if bound else ""
                    finding = Finding(
                        "fail",
                        f"rank {rank} {verb} {moved:,} bytes in the {stage} pass, where {words} {bound:,.0f}{factor}",
                        (
                            f"in {messages} messages; {besides:,} bytes are allowed besides",
                            *_table(simulation.trace, case, bounds),
                        ),
                        "bytes",
                    )
                budget_used = max(budget_used, share)
    return Verdict(budget_used if finding else 0.0, finding)  # a share of bytes is no share of an error budget


def _table(trace: Trace, case: Case, bounds: dict[str, list[Allowance]]) -> tuple[str, ...]:
    lines = ["rank  pass      bytes received       allowed    bytes sent       allowed"]
    for stage, allowances in bounds.items():
        for rank, allowance in zip(case.ranks, allowances, strict=True):
            load = trace.load(rank, [stage])
            lines.append(
                f"{rank:4}  {stage:8} {load.bytes_received:15,} {allowance.received:13,.0f} "
                f"{load.bytes_sent:13,} {allowance.sent:13,.0f}"
            )
    return tuple(lines)


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    wanted = all_gradients(target)
    several = tuple(size for size in sorted(world_sizes) if size > 1)
    return plain(ranks=several, requires_grad=wanted, data=("normal",), dtype=target.dtypes)(target, world_sizes)


def claimed(name: str) -> Callable[[Target, Sequence[int]], str]:
    """What a check needs that judges a claim: that the target makes it, and more than one rank."""

    def needs(target: Target, world_sizes: Sequence[int]) -> str:
        if name not in target.claims:
            return f"the target does not claim {name}"
        return "" if max(world_sizes) > 1 else "one rank alone sends no messages"

    return needs


def _needs_several_shards(target: Target, world_sizes: Sequence[int]) -> str:
    if target.replicated:
        return "the target declares that every rank is given the whole sequence"
    return "" if max(world_sizes) > 1 else "one rank alone sends no messages"


WIRE = Check(
    name="wire",
    promise="never moves more bytes than a dense ring does (simulated network)",
    builds_on=("forward",),
    axes=_axes,
    examine=_wire,
    weight=1,
    needs=_needs_several_shards,
    max_rows=4,
)
TRAFFIC = Check(
    name="traffic",
    promise="moves each row that is needed once, and no other (claimed; simulated network)",
    builds_on=("wire",),
    axes=_axes,
    examine=_traffic,
    weight=1,
    needs=claimed("traffic"),
    max_rows=6,
)
