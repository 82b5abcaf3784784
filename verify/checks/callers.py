"""The ways in which programs call an attention: the same numbers are due in all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.styles import MIXED
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.target.choices import CALLERS, COMPILED
from attention_gate.verify.target.target import Target

_WORDS = {
    **CALLERS,
    COMPILED: "inside torch.compile",
    MIXED: "under autocast, query and key in float32 beside a bfloat16 value",
}


def _called(session: Session, case: Case, parameters: Parameters) -> Verdict:
    verdict = session.judged(case)
    if (found := verdict.finding) is None or case.caller == "plain":
        return verdict
    headline = f"called {_WORDS[case.caller]}: {found.headline}"
    if case.caller != MIXED and session.judged(case.replace(caller="plain")).finding is None:
        headline += "; called as is, it is right"
    return Verdict(verdict.budget_used, replace(found, headline=headline))


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    callers = tuple(caller for caller in (*target.callers, MIXED) if caller != "plain")
    return plain(
        dtype=target.dtypes,
        caller=callers,
        requires_grad=all_gradients(target),
        shards=("even", "uneven"),
        scale=("given",) if target.scales else ("default",),
        data=("normal",),
    )(target, world_sizes)


def _compiled_axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    few = [size for size in world_sizes if size >= target.least_ranks]
    return plain(
        caller=(COMPILED,),
        ranks=tuple(sorted(few)[:2]),
        requires_grad=all_gradients(target),
        shards=("even",),
        scale=("default",),
        data=("normal",),
    )(target, world_sizes)


CALLERS_CHECK = Check(
    name="callers",
    promise="gives the same numbers however it is called: checkpointed, under autocast, from a thread, twice, …",
    builds_on=("forward", "gradients"),
    axes=_axes,
    examine=_called,
    weight=0.6,
    pairwise=True,
)
COMPILED_CHECK = Check(
    name="compiled",
    promise="gives the same numbers inside torch.compile (claimed)",
    builds_on=("forward", "gradients"),
    axes=_compiled_axes,
    examine=_called,
    weight=0.04,
    pairwise=True,
    needs=lambda target, sizes: "" if COMPILED in target.claims else "the target does not claim compiled",
    profiles=("standard", "thorough"),
)
