"""The order of a GPU's streams: whichever of them comes late, what is not ordered after it goes wrong.

On a GPU that has nothing else to do, streams seldom come late: a missing wait shows in one run of thousands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.from_bytes import together
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import MODELS, Schedule
from attention_gate.verify.rank.stream_lag import CALLER, NETWORK
from attention_gate.verify.target.target import Target

#: The most streams of a call that are delayed one after the other: the network's, the caller's, and the target's own.
_MOST = 6


def _streams(session: Session, case: Case, parameters: Parameters) -> Verdict:
    budget_used, delayed, streams = 0.0, 0, CALLER + 1
    while delayed < min(streams, _MOST):
        # Other values each time: memory that is read too early may hold what the last call left there.
        made = case.replace(seed=case.seed + delayed)
        schedule = Schedule(parameters["model"])
        simulation = simulate(session, made, schedule=schedule, procedure="lag", delayed=delayed)
        finding = simulation.finding
        if finding is None:
            answers = [simulation.run.value(rank) for rank in made.ranks]
            verdict = session.judge(made, [attended for attended, _ in answers])
            budget_used, finding = max(budget_used, verdict.budget_used), verdict.finding
            streams = max(streams, *(used for _, used in answers))
        if finding is not None:
            details = (*finding.details, f"while {_late(delayed)}", "with the seed " + str(made.seed))
            return Verdict(np.inf, replace(finding, details=details))
        delayed += 1
    return Verdict(budget_used)


def _late(delayed: int) -> str:
    """What came late, and what is wrong with a target that it harms, in words."""
    if delayed == NETWORK:
        return (
            "what the network did came late: received rows are read, or sent ones overwritten, on a stream that does "
            "not wait for the operation; wait() makes the stream wait that is the current one then, and no other"
        )
    if delayed == CALLER:
        return (
            "the stream that the target is called on came late: what is computed there, its inputs among it, is used "
            "on another stream that does not wait for it, or lives in memory that is given away too early"
        )
    return (
        f"stream {delayed - CALLER} that the target uses beside the one that it is called on came late: what is "
        "computed there is used on another stream that does not wait for it, or reads memory that was given away"
    )


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    # Fused kernels, for which streams are used, take half types.
    half = [dtype for dtype in target.dtypes if dtype in ("bfloat16", "float16")][:1]
    dtypes = tuple(dict.fromkeys((target.logic_dtype, *half)))
    return plain(dtype=dtypes, requires_grad=all_gradients(target))(target, world_sizes)


STREAMS = Check(
    name="streams",
    promise="orders its streams: it is right whichever of them comes late (CUDA; simulated network)",
    builds_on=("forward",),
    axes=_axes,
    examine=_streams,
    weight=0.2,
    parameters=lambda session: together(model=st.sampled_from(MODELS)),
    max_rows=6,
    devices=("cuda",),
)
