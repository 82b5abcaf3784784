"""Numbers: dtypes of results, and values that are not finite."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

import reference
from verify.case import Case
from verify.checks.check import Check, Detail, plain
from verify.findings import Finding
from verify.judge import Verdict, assemble
from verify.session import Session


def _dtypes(session: Session, case: Case, detail: Detail) -> Verdict:
    return session.judged(case, names=(), lse=session.target.returns_lse)


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
