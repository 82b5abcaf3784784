"""What a target may claim: to compute while messages travel."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Check, Parameters
from attention_gate.verify.checks.dense_worlds import WIDTH, dense, dense_axes
from attention_gate.verify.checks.wire import claimed
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.byte_bounds import METADATA
from attention_gate.verify.network.trace import Trace
from attention_gate.verify.rank.network_messages import Post, Wait
from attention_gate.verify.world.finding import Finding

#: While a message travels, at least this part of a hop's share of the computation must be done.
LEAST_WORK = 0.25


def _overlap(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """Between posting a hop and waiting for it, attention is computed."""
    size = max(3, parameters["largest_world"])
    case = dense(session, case, size, 2 + case.seed % 3, WIDTH // 2)
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
                        f"rank {rank} computed too little while {len(idle)} of {hops} messages of the {stage} pass "
                        "travelled",
                        (
                            f"first: operation {post.number}, {post.call} of {post.receives[0]}, posted at {post.line}",
                            f"between posting and wait {work:,} units of work were done; at least {share:,.0f} are "
                            "expected (a quarter of a hop's share)",
                            *(["the last message of the backward pass is not counted"] if spared else []),
                        ),
                        "overlap",
                    ),
                )
    return Verdict(0.0)


def _idle_hops(trace: Trace, rank: int, stage: str, size: int) -> tuple[list[tuple[Post, int, float]], int]:
    """Receives during which too little was computed, with the work done and expected, and the number of receives."""
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


OVERLAP = Check(
    name="overlap",
    promise="computes while messages travel (claimed; simulated network)",
    builds_on=("forward",),
    axes=dense_axes,
    examine=_overlap,
    weight=0.1,
    needs=claimed("overlap"),
    parameters=lambda session: st.just({"largest_world": session.largest_world}),
    devices=("cpu",),
)
