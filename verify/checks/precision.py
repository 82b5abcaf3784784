"""Precision: in the narrower dtypes each element within its own bound, and in half types no running sum rounded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from verify.case import Case
from verify.checks.check import Axes, Check, Detail, plain
from verify.choices import ONE_SIDED
from verify.findings import Finding
from verify.judge import Verdict, assemble
from verify.measuring import HALF_TYPES, LEAST_RANKS, measuring_cases
from verify.roundings import ELEMENTS, RMS_LIMITS, regime, rms_ratio
from verify.session import VALUES, Session
from verify.target import Target

#: What a figure beyond its limit is the mark of.
_MARKS = {
    "out": "a running output kept in the inputs' dtype, whose error grows with the number of blocks merged",
    "lse": "a log-sum-exp that was kept in fewer digits than float32 has",
    "query.grad": "a log-sum-exp kept in the inputs' dtype, or a gradient of the queries summed up in it",
    "key.grad": "a gradient summed up in the inputs' dtype, block by block or as it travels from rank to rank",
    "value.grad": "a gradient summed up in the inputs' dtype, block by block or as it travels from rank to rank",
}


def _precision(session: Session, case: Case, detail: Detail) -> Verdict:
    attended, finding = session.attend(case, lse=session.target.returns_lse)
    if finding:
        return Verdict(np.inf, finding)
    verdict = session.judge(case, attended)
    if verdict.finding or case.data != ONE_SIDED or case.dtype not in HALF_TYPES or case.shards < LEAST_RANKS:
        return verdict
    positions, right = session.positions(case), session.answer(case).expected
    worst = verdict.worst
    for name in VALUES:
        if not any(part.arrays.get(name) is not None for part in attended):
            continue
        dtype, least = (case.dtype, ELEMENTS) if name != "lse" else ("float32", 64)
        ratio = rms_ratio(assemble(case, attended, positions, name), right[name], dtype, least)
        limit = RMS_LIMITS[regime(case.shards, len(case.segment_lengths))][name]
        worst = max(worst, ratio / limit)
        if ratio > limit:
            return Verdict(worst, _inexact(name, ratio, limit, dtype, right[name].size))
    return Verdict(worst)


def _inexact(name: str, ratio: float, limit: float, dtype: str, elements: int) -> Finding:
    words = {"out": "the output", "lse": "the log-sum-exp"}.get(name, f"the gradient of {name.removesuffix('.grad')}")
    return Finding(
        "fail",
        f"{words} is {ratio:.2f} times as inexact as one rounding to {dtype} leaves it, where {limit} is the limit",
        (
            f"root-mean-square error over {elements} elements; rounding the weights, dS and each block's result to the "
            "inputs' dtype stays within the limit",
            f"no single element is beyond its bound: this is the mark of {_MARKS[name]}",
        ),
        tensor=name,
    )


def _narrower(target: Target) -> tuple[str, ...]:
    return tuple(dtype for dtype in target.dtypes if dtype != target.logic_dtype or dtype in HALF_TYPES)


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    wanted = ("qkv",) if target.gradients else ("",)
    return plain(dtype=_narrower(target), requires_grad=wanted)(target, world_sizes)


PRECISION = Check(
    name="precision",
    promise="loses no more precision than rounding its inputs' dtype explains",
    builds_on=("forward", "gradients"),
    axes=_axes,
    examine=_precision,
    besides=measuring_cases,
    weight=3,
    max_rows=10,
    needs=lambda target, sizes: "" if _narrower(target) else f"the target takes {target.logic_dtype} only",
)
