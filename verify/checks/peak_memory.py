"""What a target may claim: memory that does not grow with the world, and grows linearly with a rank's rows."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.from_bytes import together
from attention_gate.verify.checks.check import Check, Parameters
from attention_gate.verify.checks.dense_worlds import WIDTH, dense, dense_axes
from attention_gate.verify.checks.wire import claimed
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.world.finding import Finding

#: For each rank more, peak memory may grow by this part of a shard's keys and values.
GROWTH_PER_RANK = 0.25

#: With twice the rows on each rank, peak memory may grow by this factor: linear is 2, a block of scores makes it 4.
GROWTH_WITH_LENGTH = 2.5

#: With fewer ranks a ring has fewer messages in flight at a time than in any larger world.
_SMALLEST_WORLD = 4
_LARGEST_WORLD = 16
_ROWS = 8
_MANY_ROWS = 1100  # more than 2**20 scores with a block of that size


def _memory(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """The peak of live bytes does not grow with the number of ranks, and grows with their rows as these do."""
    small = max(_SMALLEST_WORLD, min(parameters["largest_world"], _LARGEST_WORLD // 2))
    large = 2 * small
    cases = [dense(session, case, size, _ROWS, WIDTH) for size in (small, large)]
    peaks = []
    for made in cases:
        found = _peaks(session, made)
        if isinstance(found, Finding):
            return Verdict(np.inf, found)
        peaks.append(found)
    item = {"float64": 8, "float32": 4}.get(case.dtype, 2)
    shard = _ROWS * cases[0].kv_heads * (cases[0].head_dim + cases[0].value_dim) * item
    for stage in peaks[0]:
        growth = (peaks[1][stage] - peaks[0][stage]) / (large - small)
        if growth > GROWTH_PER_RANK * shard:
            headline = (
                f"peak memory of the {stage} pass grows with the number of ranks: {peaks[0][stage]:,} bytes on {small} "
                f"ranks, {peaks[1][stage]:,} on {large}, with {_ROWS} rows on each"
            )
            detail_line = f"{growth / shard:.2f} times a shard's keys and values ({shard:,} bytes) per additional rank"
            share = growth / (GROWTH_PER_RANK * shard)
            return Verdict(share, Finding("fail", headline, (detail_line,), "memory"))
    if parameters["many_rows"]:
        return _with_length(session, case)
    return Verdict(0.0)


def _with_length(session: Session, case: Case) -> Verdict:
    cases = [dense(session, case, 2, rows, 16).replace(heads=1, kv_heads=1) for rows in (_MANY_ROWS, 2 * _MANY_ROWS)]
    peaks = []
    for made in cases:
        found = _peaks(session, session.fitted(made))
        if isinstance(found, Finding):
            return Verdict(np.inf, found)
        peaks.append(found)
    for stage in peaks[0]:
        factor = peaks[1][stage] / peaks[0][stage]
        if factor > GROWTH_WITH_LENGTH:
            headline = (
                f"peak memory of the {stage} pass grows faster than the rows: {peaks[0][stage]:,} bytes with "
                f"{_MANY_ROWS} rows on each of 2 ranks, {peaks[1][stage]:,} with {2 * _MANY_ROWS}"
            )
            lines = (f"{factor:.2f} times as much for twice the rows: blocks of scores are not bounded",)
            return Verdict(factor / GROWTH_WITH_LENGTH, Finding("fail", headline, lines, "memory"))
    return Verdict(0.0)


def _peaks(session: Session, case: Case) -> dict[str, int] | Finding:
    """The largest peak of any rank, by pass."""
    simulation = simulate(session, case, procedure="weigh", judged=False)
    if simulation.finding is not None:
        return simulation.finding
    values = [simulation.run.value(rank) for rank in case.ranks]
    return {stage: max(value[stage] for value in values) for stage in values[0]}


MEMORY = Check(
    name="memory",
    promise="needs memory that does not grow with the number of ranks, and grows linearly with the rows of a rank "
    "(claimed)",
    builds_on=("forward",),
    axes=dense_axes,
    examine=_memory,
    weight=0.06,
    needs=claimed("memory"),
    parameters=lambda session: together(many_rows=st.booleans(), largest_world=st.just(session.largest_world)),
    devices=("cpu",),
)
