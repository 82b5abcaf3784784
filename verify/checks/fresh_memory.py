"""Uninitialised memory: it must not reach a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.target.target import Target


def _fresh_memory(session: Session, case: Case, parameters: Parameters) -> Verdict:
    verdict = session.judged(case, lse=session.target.returns_lse, filled=True)
    if (found := verdict.finding) is None or found.outcome != "fail":
        return verdict
    detail = (
        "in this run torch.empty and similar calls returned memory filled with NaN: the target reads some of it before "
        "writing it"
    )
    return Verdict(verdict.budget_used, replace(found, details=(*found.details, detail)))


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    return plain(requires_grad=all_gradients(target))(target, world_sizes)


FRESH_MEMORY = Check(
    name="fresh-memory",
    promise="does not read uninitialised memory",
    builds_on=("forward", "gradients"),
    axes=_axes,
    examine=_fresh_memory,
    weight=0.5,
)
