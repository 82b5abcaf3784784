"""Dtypes and shapes of what is returned."""

from __future__ import annotations

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session


def _dtypes(session: Session, case: Case, parameters: Parameters) -> Verdict:
    return session.judged(case, names=(), lse=session.target.returns_lse)


DTYPES_CHECK = Check(
    name="dtypes",
    promise="returns results and gradients in the dtype and shape of its inputs, and an lse no narrower than float32",
    builds_on=("forward", "gradients"),
    axes=lambda target, sizes: (
        plain(requires_grad=all_gradients(target))(target, sizes) | {"dtype": tuple(reversed(target.dtypes))}
    ),
    examine=_dtypes,
    weight=0.5,
)
