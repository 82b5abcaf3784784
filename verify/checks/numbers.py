"""Numbers: dtypes of results, precision in every dtype, and values that are not finite."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

import reference
from verify.budget import UNIT_ROUNDOFF
from verify.case import Case
from verify.checks.check import Axes, Check, Detail, plain
from verify.findings import Finding
from verify.judge import Verdict, assemble
from verify.session import Session
from verify.target import Target

#: The root-mean-square error of an output in a half type, in units of that of one final rounding, stays below this:
#: rounding the weights and every block's output to the input dtype, as fused kernels do, gives at most 1.8 at any
#: number of blocks; an accumulator in the input dtype passes it from about 8 blocks on.
RMS_LIMIT = 2.2

#: Fewer elements than this make no reliable root-mean-square.
_RMS_ELEMENTS = 256


def _dtypes(session: Session, case: Case, detail: Detail) -> Verdict:
    return session.judged(case, names=(), lse=session.target.returns_lse)


def _precision(session: Session, case: Case, detail: Detail) -> Verdict:
    attended, finding = session.attend(case, lse=session.target.returns_lse)
    if finding:
        return Verdict(np.inf, finding)
    verdict = session.judge(case, attended)
    if verdict.finding or case.dtype not in ("bfloat16", "float16"):
        return verdict
    right = session.answer(case).expected["out"]
    got = assemble(case, attended, session.positions(case), "out")
    ratio = rms_ratio(got, right, case.dtype)
    if ratio <= RMS_LIMIT:
        return verdict
    return Verdict(
        ratio / RMS_LIMIT,
        Finding(
            "fail",
            f"the output is {ratio:.2f} times as inexact as one rounding to {case.dtype} would leave it",
            (
                f"root-mean-square over {right.size} elements; rounding the weights and each block's output gives at "
                f"most 1.8, the limit is {RMS_LIMIT}",
                "no single element is beyond its bound: this is the mark of a running output kept in the input dtype, "
                "whose error grows with the number of blocks that are merged",
            ),
            tensor="out",
        ),
    )


def rms_ratio(got: np.ndarray, right: np.ndarray, dtype: str) -> float:
    """Root-mean-square error over that of rounding ``right`` once; 0 where there are too few elements to tell."""
    usual = np.isfinite(got) & np.isfinite(right) & (right != 0)
    if usual.sum() < _RMS_ELEMENTS:
        return 0.0
    # A rounding error is spread evenly over +-u/2 of the power of two below.
    ulp = 2 * UNIT_ROUNDOFF[dtype] * 2.0 ** np.floor(np.log2(np.abs(right[usual])))
    once = ulp / np.sqrt(12)
    return float(np.sqrt((((got - right)[usual]) ** 2).sum() / (once**2).sum()))


def _half(target: Target) -> tuple[str, ...]:
    return tuple(dtype for dtype in target.dtypes if dtype != target.logic_dtype)


def _precision_axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    wanted = ("qkv",) if target.gradients else ("",)
    return plain(dtype=_half(target), requires_grad=wanted)(target, world_sizes)


_POISONS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def _non_finite(session: Session, case: Case, detail: Detail) -> Verdict:
    """One row of one input is not finite: nothing raises or hangs, and who sees the row is not told a finite tale."""
    if not case.length:
        return Verdict(0.0)
    position = detail["position"] % case.length
    poison = (detail["input"], position, _POISONS[detail["value"]])
    attended, finding = session.attend(case, poison=poison)
    if finding:
        return Verdict(np.inf, finding)
    verdict = session.judge(case, attended, names=())
    if verdict.finding:
        return verdict
    got = assemble(case, attended, session.positions(case), "out")
    branches = reference.branches(case.segment_lengths, case.dilation_rates)
    M = reference.multiplicity(case.length, case.heads, branches, case.is_causal, session.target.dialect)
    touched = (M[:, :, position] > 0).T  # (query, head)
    if detail["input"] == "query":
        touched = touched & False
        touched[position] = (M[:, position, :] > 0).any(axis=1)
    must = detail["value"] == "nan" and (case.scale != 0.0 or detail["input"] == "value")
    hidden = must & touched[None, :, :, None] & np.isfinite(got)
    if hidden.any():
        batch, row, head, dim = (int(i) for i in np.argwhere(hidden)[0])
        return Verdict(
            np.inf,
            Finding(
                "fail",
                f"NaN in {detail['input']} at position {position} is hidden: outputs that depend on it are finite",
                (
                    f"first: out[batch {batch}, position {row}, head {head}, dim {dim}] "
                    f"is {got[batch, row, head, dim]:.9g}",
                ),
                tensor="out",
            ),
        )
    return Verdict(0.0)


def _poisons(session: Session) -> st.SearchStrategy[Detail]:
    return st.fixed_dictionaries(
        {
            "input": st.sampled_from(("value", "key", "query")),
            "position": st.integers(0, 63),
            "value": st.sampled_from(tuple(_POISONS)),
        }
    )


DTYPES_CHECK = Check(
    name="dtypes",
    promise="returns results and gradients in the dtype and shape of its inputs, and an lse no narrower than float32",
    builds_on=("forward", "gradients"),
    axes=lambda target, sizes: (
        plain(requires_grad=("qkv",) if target.gradients else ("",))(target, sizes)
        | {"dtype": tuple(reversed(target.dtypes))}
    ),
    examine=_dtypes,
    weight=0.5,
)
PRECISION = Check(
    name="precision",
    promise="loses no more precision than rounding its inputs' dtype explains",
    builds_on=("forward", "gradients"),
    axes=_precision_axes,
    examine=_precision,
    weight=3,
    max_rows=10,
    needs=lambda target, sizes: "" if _half(target) else f"the target takes {target.logic_dtype} only",
)
NON_FINITE = Check(
    name="non-finite",
    promise="lets NaN and infinity go where arithmetic takes them, and neither raises nor hangs",
    builds_on=("forward", "gradients"),
    axes=lambda target, sizes: plain(requires_grad=("qkv",) if target.gradients else ("",), data=("normal",))(
        target, sizes
    ),
    examine=_non_finite,
    detail=_poisons,
    weight=0.5,
)
