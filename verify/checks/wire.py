"""The bytes that are sent, counted one by one on the simulated network, at sizes where rows dominate.

The amount is reported for every target. It counts as a failure if the target claims "wire" or "traffic".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.measurements import BytesMoved
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.byte_bounds import METADATA, Allowance, least, most
from attention_gate.verify.network.trace import Trace
from attention_gate.verify.target.choices import DTYPES
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.finding import Finding

#: A claim of least traffic may be missed by this part.
TOLERANCE = 0.02

#: Bytes of one row of key and value of one kv head, half as many in half types: large enough that nothing else matters.
_ROW_BYTES = 16384


def widened(session: Session, case: Case) -> Case:
    """The same case with rows so wide that they make up nearly all that is sent."""
    columns = _ROW_BYTES // (8 if case.dtype == "float64" else 4)
    key = columns // 2 if case.head_dim == case.value_dim else columns * 3 // 8
    return session.fitted(case.replace(batch=1, head_dim=key, value_dim=columns - key))


def _wire(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """No rank sends or receives more than in a dense ring."""
    positions = session.positions(case)

    def allowed(stage: str) -> list[Allowance]:
        bound = most(case, positions, stage, session.totals())
        return [Allowance(bound, bound)] * case.shards

    bounds = {stage: allowed(stage) for stage in _stages(case)}
    verdict, trace = _judged(session, case, bounds, 0.0, "a dense ring moves at most")
    if trace is None:
        return verdict
    decides = {"wire", "traffic"} & set(session.target.claims)
    return Verdict(
        verdict.budget_used if decides else 0.0,
        verdict.finding if decides else None,
        _remark(case, trace, bounds),
        traffic=_moved(session, case, trace, bounds),
    )


def _traffic(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """No rank sends or receives a row that is not needed, or one twice."""
    positions, dialect = session.positions(case), session.target.dialect
    bounds = {stage: least(case, dialect, positions, stage, session.totals()) for stage in _stages(case)}
    return _judged(session, case, bounds, TOLERANCE, "the rows that are needed amount to")[0]


def _remark(case: Case, trace: Trace, bounds: dict[str, list[Allowance]]) -> tuple[float, str]:
    """The most that a rank moved in a pass beside what a dense ring moves, and the dtype if it is a wider one."""
    most_of_all, words = 0.0, ""
    for stage, allowances in bounds.items():
        for rank, allowance in zip(case.ranks, allowances, strict=True):
            load = trace.load(rank, [stage])
            share = max(load.bytes_received, load.bytes_sent) / (allowance.received + METADATA * (case.shards - 1))
            if share > most_of_all:
                most_of_all = share
                words = f"at most {share:.2f} times the bytes of a dense ring"
                if wider := _wider(case, trace, rank, stage):
                    words = f"{wider} on the wire for a {case.dtype} input: {share:.2f} times the bytes of a dense ring"
    return most_of_all, words


def _moved(session: Session, case: Case, trace: Trace, bounds: dict[str, list[Allowance]]) -> tuple[BytesMoved, ...]:
    """In each pass, what the rank moved that moved most beside what it must; nothing where keys need not travel."""
    found, positions = [], session.positions(case)
    if positions.replicated:
        return ()
    for stage, ring in bounds.items():
        needed = least(case, session.target.dialect, positions, stage, session.totals())
        metadata = METADATA * (case.shards - 1)  # allowed to all of them
        each = []
        for rank, allowed, must in zip(case.ranks, ring, needed, strict=True):
            load = trace.load(rank, [stage])
            for moved, at_least in ((load.bytes_received, must.received), (load.bytes_sent, must.sent)):
                each.append(BytesMoved(case.shards, stage, moved, float(allowed.received), float(at_least + metadata)))
        found.append(max(each, key=lambda one: one.excess))
    return tuple(found)


def _wider(case: Case, trace: Trace, rank: int, stage: str) -> str:
    """The floating dtype that most of the bytes of a pass are in, if it is wider than what a ring would send."""
    due = case.dtype if stage == "forward" or case.dtype == "float64" else "float32"
    moved: dict[str, int] = {}
    for post in trace.posts(rank):
        for piece in (post.sends or post.receives) if post.stage == stage else ():
            moved[piece.dtype] = moved.get(piece.dtype, 0) + piece.nbytes
    found = max(moved, key=moved.__getitem__, default=due)
    return found if found in DTYPES and DTYPES.index(found) < DTYPES.index(due) else ""


def _stages(case: Case) -> tuple[str, ...]:
    return ("forward", "backward") if case.requires_grad else ("forward",)


def _judged(
    session: Session, case: Case, bounds: dict[str, list[Allowance]], tolerance: float, words: str
) -> tuple[Verdict, Trace | None]:
    """The verdict on the bytes, and the record of the run if it returned."""
    simulation = simulate(session, case, judged=False)
    if simulation.finding is not None:
        return Verdict(np.inf, simulation.finding), None
    metadata = METADATA * (case.shards - 1)
    budget_used, finding = 0.0, None
    for stage, allowances in bounds.items():
        for rank, allowance in zip(case.ranks, allowances, strict=True):
            load = simulation.trace.load(rank, [stage])
            for verb, moved, bound, messages in (
                ("receives", load.bytes_received, allowance.received, load.messages_received),
                ("sends", load.bytes_sent, allowance.sent, load.messages_sent),
            ):
                limit = bound * (1 + tolerance) + metadata
                share = moved / limit if limit else float(moved > 0)
                if share > max(budget_used, 1.0):
                    factor = f" ({moved / bound:.2f} times)" if bound else ""
                    finding = Finding(
                        "fail",
                        f"rank {rank} {verb} {moved:,} bytes in the {stage} pass; {words} {bound:,.0f} bytes{factor}",
                        (
                            f"in {messages} messages; {metadata:,} bytes of metadata are allowed in addition",
                            *_table(simulation.trace, case, bounds),
                        ),
                        "bytes",
                    )
                budget_used = max(budget_used, share)
    # A share of bytes is not a share of an error budget.
    return Verdict(budget_used if finding else 0.0, finding), simulation.trace


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
    return plain(terms=True, ranks=several, requires_grad=wanted, data=("normal",), dtype=target.dtypes)(
        target, world_sizes
    )


def claimed(name: str) -> Callable[[Target, Sequence[int]], str]:
    """What a check needs that judges a claim: that the target makes it, and more than one rank."""

    def needs(target: Target, world_sizes: Sequence[int]) -> str:
        if name not in target.claims:
            return f"the target does not claim {name}"
        return "" if max(world_sizes) > 1 else "a world of one rank sends no messages"

    return needs


def _needs_several_shards(target: Target, world_sizes: Sequence[int]) -> str:
    if target.replicated:
        return "the target declares that every rank is given the whole sequence"
    return "" if max(world_sizes) > 1 else "a world of one rank sends no messages"


WIRE = Check(
    name="wire",
    promise="moves its bytes without a fault, and if it claims so no more than a dense ring does (simulated network)",
    builds_on=("forward",),
    axes=_axes,
    examine=_wire,
    weight=0.75,
    needs=_needs_several_shards,
    max_rows=4,
    shaped=widened,
)
TRAFFIC = Check(
    name="traffic",
    promise="sends each needed row once and no other row (claimed; simulated network)",
    builds_on=("wire",),
    axes=_axes,
    examine=_traffic,
    weight=0.75,
    needs=claimed("traffic"),
    max_rows=6,
    shaped=widened,
)
