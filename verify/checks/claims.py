"""What a target may claim besides: to compute while messages travel, and memory that does not grow with the world.

Judged on the simulated network, in worlds of its own size, as the smallest ones show neither.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from verify.case import Case
from verify.checks.check import Axes, Check, Detail, plain
from verify.checks.wire import claimed
from verify.findings import Finding
from verify.judge import Verdict
from verify.network.laws import METADATA
from verify.network.messages import Post, Wait
from verify.network.simulate import simulate
from verify.network.trace import Trace
from verify.session import Session
from verify.target import Target

#: While a message travels, at least this part of a hop's share of the computation must be done.
LEAST_WORK = 0.25

#: For each rank more, peak memory may grow by this part of a shard's keys and values.
GROWTH_PER_RANK = 0.25

#: With twice the rows on each rank, peak memory may grow by this factor: linear is 2, a block of scores makes it 4.
GROWTH_WITH_LENGTH = 2.5

#: With fewer ranks a ring has not yet as much under way at a time as it will have in any larger world.
_SMALLEST_WORLD = 4
_LARGEST_WORLD = 16
_ROWS, _WIDTH = 8, 512
_MANY_ROWS = 1100  # more than 2**20 scores with a block of its own size


def _overlap(session: Session, case: Case, detail: Detail) -> Verdict:
    """Between posting a hop and waiting for it, attention is computed."""
    size = max(3, session.largest_world)
    case = _dense(session, case, size, 2 + case.seed % 3, _WIDTH // 2)
    simulation = simulate(session, case, judged=False, count_work=True)
    if simulation.finding is not None:
        return Verdict(np.inf, simulation.finding)
    for stage, spared in (("forward", 0), ("backward", 1)):
        for rank in case.ranks:
            idle, hops = _idle_hops(simulation.trace, rank, stage, case.shards)
            if len(idle) > spared:
                post, work, share = idle[0]
                return Verdict(
                    np.inf,
                    Finding(
                        "fail",
                        f"rank {rank} waits for {len(idle)} of {hops} messages of the {stage} pass without having "
                        "computed while they travelled",
                        (
                            f"first: operation {post.number}, {post.call} of {post.receives[0]}, posted at {post.line}",
                            f"from there to its wait {work:,} of {share:,.0f} units of work were done, a hop's share",
                            *(["the last message of the backward pass is not counted"] if spared else []),
                        ),
                        "overlap",
                    ),
                )
    return Verdict(0.0)


def _idle_hops(trace: Trace, rank: int, stage: str, size: int) -> tuple[list[tuple[Post, int, float]], int]:
    """The receives of rows in whose time nothing was computed, with the work done and due; how many there are."""
    entries = [entry for entry in trace.logs[rank] if entry.stage == stage]
    if not entries:
        return [], 0
    total = entries[-1].work - entries[0].work
    share = LEAST_WORK * total / size
    posts = {entry.number: entry for entry in entries if isinstance(entry, Post) and _carries_rows(entry)}
    idle, seen = [], set()
    for entry in entries:
        if isinstance(entry, Wait):
            for number in entry.numbers:
                if number in posts and number not in seen:
                    seen.add(number)
                    if (work := entry.work - posts[number].work) < share:
                        idle.append((posts[number], work, share))
    return idle, len(seen)


def _carries_rows(post: Post) -> bool:
    return sum(piece.nbytes for piece in post.receives) > METADATA


def _memory(session: Session, case: Case, detail: Detail) -> Verdict:
    """The peak of live bytes does not grow with the number of ranks, and grows with their rows as these do."""
    small = max(_SMALLEST_WORLD, session.largest_world)
    large = min(2 * small, _LARGEST_WORLD)
    worst = 0.0
    cases = [_dense(session, case, size, _ROWS, _WIDTH) for size in (small, large)]
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
        worst = max(worst, growth / (GROWTH_PER_RANK * shard))
        if worst > 1:
            headline = (
                f"peak memory of the {stage} pass grows with the world: {peaks[0][stage]:,} bytes on {small} ranks, "
                f"{peaks[1][stage]:,} on {large}, with {_ROWS} rows on each"
            )
            detail_line = f"{growth / shard:.2f} times a shard's keys and values ({shard:,} bytes) for each rank more"
            return Verdict(worst, Finding("fail", headline, (detail_line,), "memory"))
    if detail["many_rows"]:
        return _with_length(session, case, worst)
    return Verdict(0.0)


def _with_length(session: Session, case: Case, worst: float) -> Verdict:
    cases = [_dense(session, case, 2, rows, 16).replace(heads=1, kv_heads=1) for rows in (_MANY_ROWS, 2 * _MANY_ROWS)]
    peaks = []
    for made in cases:
        found = _peaks(session, session.fitted(made))
        if isinstance(found, Finding):
            return Verdict(np.inf, found)
        peaks.append(found)
    for stage in peaks[0]:
        factor = peaks[1][stage] / peaks[0][stage]
        worst = max(worst, factor / GROWTH_WITH_LENGTH)
        if worst > 1:
            headline = (
                f"peak memory of the {stage} pass grows faster than the rows: {peaks[0][stage]:,} bytes with "
                f"{_MANY_ROWS} rows on each of 2 ranks, {peaks[1][stage]:,} with {2 * _MANY_ROWS}"
            )
            lines = (f"{factor:.2f} times as much for twice the rows: blocks of scores are not bounded",)
            return Verdict(worst, Finding("fail", headline, lines, "memory"))
    return Verdict(0.0)


def _peaks(session: Session, case: Case) -> dict[str, int] | Finding:
    """The largest peak of any rank, by pass."""
    simulation = simulate(session, case, procedure="weigh", judged=False)
    if simulation.finding is not None:
        return simulation.finding
    values = [simulation.run.value(rank) for rank in case.ranks]
    return {stage: max(value[stage] for value in values) for stage in values[0]}


def _dense(session: Session, case: Case, size: int, rows: int, width: int) -> Case:
    """Everybody sees everybody: the case in which all that travels is used, and everything travels."""
    made = case.replace(
        world_size=size,
        length=size * rows,
        segment_lengths=(size * rows,),
        dilation_rates=(1,),
        is_causal=False,
        batch=1,
        head_dim=width,
        value_dim=width,
    )
    return session.fitted(made)


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    wanted = ("qkv",) if target.gradients else ("",)
    several = tuple(size for size in sorted(world_sizes) if size > 1)
    return plain(
        ranks=several,
        requires_grad=wanted,
        data=("normal",),
        mask=("full",),
        branches=("dense",),
        shards=("even",),
        value_dim=("same",),
    )(target, world_sizes)


OVERLAP = Check(
    name="overlap",
    promise="computes while messages travel (claimed; simulated network)",
    builds_on=("forward",),
    axes=_axes,
    examine=_overlap,
    weight=0.1,
    needs=claimed("overlap"),
)
MEMORY = Check(
    name="memory",
    promise="needs memory that does not grow with the world, and linearly with a rank's rows (claimed)",
    builds_on=("forward",),
    axes=_axes,
    examine=_memory,
    weight=0.1,
    needs=claimed("memory"),
    detail=lambda session: st.fixed_dictionaries({"many_rows": st.booleans()}),
)
