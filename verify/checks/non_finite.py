"""NaN and infinity in the inputs: they reach what depends on them, and neither raise nor hang."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict, assemble
from attention_gate.verify.judge.session import Session
from attention_gate.verify.world.finding import Finding

_POISONS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


def _non_finite(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """One row of one input is not finite: nothing raises or hangs, and who sees the row is not told a finite tale."""
    if not case.length:
        return Verdict(0.0)
    position = parameters["position"] % case.length
    poison = (parameters["input"], position, _POISONS[parameters["value"]])
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
    if parameters["input"] == "query":
        touched = touched & False
        touched[position] = (M[:, position, :] > 0).any(axis=1)
    must = parameters["value"] == "nan" and (case.scale != 0.0 or parameters["input"] == "value")
    hidden = must & touched[None, :, :, None] & np.isfinite(got)
    if hidden.any():
        batch, row, head, dim = (int(i) for i in np.argwhere(hidden)[0])
        return Verdict(
            np.inf,
            Finding(
                "fail",
                f"NaN in {parameters['input']} at position {position} is hidden: outputs that depend on it are finite",
                (
                    f"first: out[batch {batch}, position {row}, head {head}, dim {dim}] "
                    f"is {got[batch, row, head, dim]:.9g}",
                ),
                tensor="out",
            ),
        )
    return Verdict(0.0)


def _poisons(session: Session) -> st.SearchStrategy[Parameters]:
    return st.fixed_dictionaries(
        {
            "input": st.sampled_from(("value", "key", "query")),
            "position": st.integers(0, 63),
            "value": st.sampled_from(tuple(_POISONS)),
        }
    )


NON_FINITE = Check(
    name="non-finite",
    promise="lets NaN and infinity go where arithmetic takes them, and neither raises nor hangs",
    builds_on=("forward", "gradients"),
    axes=lambda target, sizes: plain(requires_grad=all_gradients(target), data=("normal",))(target, sizes),
    examine=_non_finite,
    parameters=_poisons,
    weight=0.5,
)
