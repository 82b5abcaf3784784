"""How a target may be called: strides, parts of the gradients, sub-groups; and what a call leaves alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.from_bytes import integers, together
from attention_gate.verify.case.options import REQUIRES_GRAD
from attention_gate.verify.case.styles import BUFFERS, UPSTREAMS
from attention_gate.verify.checks.check import (
    Axes,
    Check,
    Parameters,
    all_gradients,
    any_option,
    needs_gradients,
    plain,
)
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.target.target import Target


def _judged(session: Session, case: Case, parameters: Parameters) -> Verdict:
    return session.judged(case)


def _in_groups(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """Optionally the same call in another group of the same size first, then in the case's own group."""
    before = _other_group(case, parameters.get("before", 0))
    verdict = session.judged(before)
    if before != case and not verdict.finding:
        verdict = session.judged(case)
    if (found := verdict.finding) is None or found.outcome == "fail":
        return verdict
    return Verdict(verdict.budget_used, replace(found, details=(*found.details, _NO_SUB_GROUPS)))


_NO_SUB_GROUPS = "if it is not meant to take sub-groups, say so, and they are not tried: Target(subgroups=False)"


def _other_group(case: Case, shift: int) -> Case:
    return case.replace(group=tuple(sorted((rank + shift) % case.world_size for rank in case.ranks)))


def _purity(session: Session, case: Case, parameters: Parameters) -> Verdict:
    return session.judged(case, names=(), purity=True)


def _any_in_logic_dtype(target: Target, world_sizes: Sequence[int]) -> Axes:
    return any_option(target, world_sizes) | {"dtype": (target.logic_dtype,)}


def _strides(target: Target, world_sizes: Sequence[int]) -> Axes:
    return plain(requires_grad=all_gradients(target), buffers=BUFFERS, upstream=UPSTREAMS)(target, world_sizes)


def _sub_groups(target: Target, world_sizes: Sequence[int]) -> Axes:
    room = tuple(range(1, max(world_sizes)))  # a bystander at least
    return plain(requires_grad=all_gradients(target), group=("sub-group",), ranks=room)(target, world_sizes)


def _needs_sub_groups(target: Target, world_sizes: Sequence[int]) -> str:
    if not target.subgroups:
        return "the target declares no sub-groups"
    return "" if max(world_sizes) > 1 else "a sub-group needs a world of at least two"


PURITY = Check(
    name="purity",
    promise="modifies no input and no upstream gradient, returns no view of an input, and does not change the state of "
    "the process",
    builds_on=("forward", "gradients"),
    axes=_any_in_logic_dtype,
    examine=_purity,
    weight=0.75,
)
STRIDES = Check(
    name="strides",
    promise="takes inputs and upstream gradients of any strides",
    builds_on=("forward", "gradients"),
    axes=_strides,
    examine=_judged,
    weight=0.75,
    needs=lambda target, sizes: "" if target.strides else "the target declares that it takes contiguous inputs only",
)
SUBSETS = Check(
    name="grad-subsets",
    promise="gives the right gradients whichever inputs require them",
    builds_on=("gradients",),
    axes=plain(requires_grad=(*REQUIRES_GRAD, "")),
    examine=_judged,
    weight=0.75,
    needs=needs_gradients,
)
SUB_GROUPS = Check(
    name="sub-groups",
    promise="works in any group of ranks, without the others taking part",
    builds_on=("forward", "gradients"),
    axes=_sub_groups,
    examine=_in_groups,
    weight=0.75,
    parameters=lambda session: together(before=integers(0, 2)),
    needs=_needs_sub_groups,
)
