"""Precision: in the narrower dtypes each element within its own bound, all digits used, and no running sum rounded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.precision_cases import (
    HALF_TYPES,
    RANKS,
    blocks_measured,
    measured_rows,
    measuring_cases,
    on_fewer_ranks,
)
from attention_gate.verify.case.styles import ONE_SIDED
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict, assemble
from attention_gate.verify.judge.rms_error import ELEMENTS, RMS_LIMITS, regime, rms_ratio
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.significant_digits import BITS, Short, shortened
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.judge.tensor_names import VALUES, in_words
from attention_gate.verify.rank.attended import Attended
from attention_gate.verify.target.choices import LEAST_BLOCKS
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.finding import Finding

#: The likely cause of an error beyond its limit.
_MARKS = {
    "out": "a running output kept in the inputs' dtype, whose error grows with the number of blocks merged",
    "lse": "a log-sum-exp that was kept in fewer digits than float32 has",
    "query.grad": "a log-sum-exp kept in the inputs' dtype, or a gradient of the queries summed up in it",
    "key.grad": "a gradient summed up in the inputs' dtype, block by block or as it travels from rank to rank",
    "value.grad": "a gradient summed up in the inputs' dtype, block by block or as it travels from rank to rank",
}


def _precision(session: Session, case: Case, parameters: Parameters) -> Verdict:
    attended, finding = _attended(session, case)
    if finding:
        return Verdict(np.inf, finding)
    form = session.judge(case, attended, names=())
    if form.finding:
        return form
    positions, right = session.positions(case), session.answer(case)
    got = {
        name: assemble(case, attended, positions, name)
        for name in VALUES
        if any(part.arrays.get(name) is not None for part in attended)
    }
    for name, array in got.items():
        dtype = case.dtype if name != "lse" or case.dtype == "float64" else "float32"
        if short := shortened(array, right.expected[name], right.budget[name], dtype):
            return Verdict(np.inf, _few_digits(name, short, dtype))
    verdict = session.judge(case, attended)
    merged = blocks_measured(case, session.target)
    if verdict.finding or case.data != ONE_SIDED or case.dtype not in HALF_TYPES or merged < LEAST_BLOCKS:
        return verdict
    budget_used, by_tensor = verdict.budget_used, dict(verdict.shares)
    for name, array in got.items():
        dtype, least = (case.dtype, ELEMENTS) if name != "lse" else ("float32", 64)
        rows = (*(slice(None),) * (2 if name == "lse" else 1), measured_rows(case, name))
        ratio = rms_ratio(array[rows], right.expected[name][rows], dtype, least)
        limit = RMS_LIMITS[regime(merged, len(case.segment_lengths))][name]
        by_tensor[name] = max(by_tensor.get(name, 0.0), ratio / limit)
        budget_used = max(budget_used, ratio / limit)
        if ratio > limit:
            fewest = RMS_LIMITS[regime(LEAST_BLOCKS, len(case.segment_lengths))][name]
            return Verdict(budget_used, _inexact(name, ratio, limit, dtype, array[rows].size, ratio <= fewest))
    return Verdict(budget_used, shares=by_tensor)


def _attended(session: Session, case: Case) -> tuple[list[Attended], Finding | None]:
    """What the ranks return; more of them than are likely to be launched are on the simulated network."""
    lse = session.target.returns_lse
    if case.data != ONE_SIDED or case.world_size != RANKS or session.device != "cpu":
        return session.attend(case, lse=lse)
    simulation = simulate(session, case, lse=lse)
    if simulation.finding is not None:
        return [], simulation.finding
    return [simulation.run.value(rank)[0] for rank in case.ranks], None


def _few_digits(name: str, short: Short, dtype: str) -> Finding:
    bits = BITS[short.narrower]
    return Finding(
        "fail",
        f"{in_words(name)} has only the digits of {short.narrower}, but its dtype is {dtype}: it was rounded to "
        f"{short.narrower} first",
        (
            f"{short.count} of the {short.of} informative numbers fit into {bits} significant bits; {dtype} has "
            f"{BITS[dtype]}, and the right values need more than {bits}",
            "by chance at most one in four would fit; zeros, repeated values and values below the rounding error are "
            "not counted",
        ),
        tensor=name,
    )


_SHARED = (
    "if several ranks share the heads of a block (Ulysses inside a ring), fewer blocks are merged: declare "
    "Target(heads_shared=…)"
)


def _inexact(name: str, ratio: float, limit: float, dtype: str, elements: int, shared: bool) -> Finding:
    """``shared``: that fewer blocks were merged than there are ranks would explain it."""
    times = f"{ratio:.2f} times that of one rounding to {dtype}"
    return Finding(
        "fail",
        f"the root-mean-square error of {in_words(name)} is {times}; the limit is {limit}",
        (
            f"measured over {elements} elements; rounding the weights, dS and each block's result to the "
            "inputs' dtype stays within the limit",
            f"no single element exceeds its bound; the likely cause is {_MARKS[name]}",
            *([_SHARED] if shared else []),
        ),
        tensor=name,
    )


def _narrower(target: Target) -> tuple[str, ...]:
    return tuple(dtype for dtype in target.dtypes if dtype != target.logic_dtype or dtype in HALF_TYPES)


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    wanted = all_gradients(target)
    return plain(dtype=_narrower(target), requires_grad=wanted)(target, world_sizes)


PRECISION = Check(
    name="precision",
    promise="has errors no larger than rounding to its inputs' dtype explains",
    builds_on=("forward", "gradients"),
    axes=_axes,
    examine=_precision,
    extra_cases=measuring_cases,
    extra_in=8,  # they are large, and what they tell is clear
    shaped=lambda session, case: case if session.device == "cpu" else on_fewer_ranks(case, session.largest_world),
    weight=1.5,
    max_rows=10,
    needs=lambda target, sizes: "" if _narrower(target) else f"the target takes {target.logic_dtype} only",
)
