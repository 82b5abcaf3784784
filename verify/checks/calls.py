"""How it may be called: strides, parts of the gradients, sub-groups, interleaved calls; what a call leaves alone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from verify.case import Case
from verify.checks.check import Axes, Check, Detail, needs_gradients, plain
from verify.choices import BUFFERS, DTYPES, UPSTREAMS
from verify.findings import Finding, of_run
from verify.judge import Verdict
from verify.session import Session
from verify.space import REQUIRES_GRAD
from verify.target import Target


def _judged(session: Session, case: Case, detail: Detail) -> Verdict:
    return session.judged(case)


def _in_groups(session: Session, case: Case, detail: Detail) -> Verdict:
    """The same call in another group of as many ranks, perhaps; then in the case's own."""
    before = _other_group(case, detail.get("before", 0))
    if before == case:
        return session.judged(case)
    verdict = session.judged(before)
    return verdict if verdict.finding else session.judged(case)


def _other_group(case: Case, shift: int) -> Case:
    return case.replace(group=tuple(sorted((rank + shift) % case.world_size for rank in case.ranks)))


def _purity(session: Session, case: Case, detail: Detail) -> Verdict:
    return session.judged(case, names=(), purity=True)


def _interleaved(session: Session, case: Case, detail: Detail) -> Verdict:
    """Three calls before the first backward pass: the second differs in one thing, the third is the first again."""
    other = changed(case, detail["change"])
    if session.target.branches == "dense":  # the one branch is as long as the sequence, whatever that is now
        other = other.replace(segment_lengths=(max(other.length, 1),))
    other = session.fitted(other)
    # A sum that a call before made wider than it need be is not wrong: the narrower dtype comes first.
    calls = (other, case, other) if detail["change"] in DTYPES else (case, other, case)
    run = session.run("interleave", *calls, order=detail["order"])
    if finding := of_run(run):
        return Verdict(np.inf, finding)
    worst = 0.0
    for k, made in enumerate(calls):
        verdict = session.judge(made, [run.value(rank)[k] for rank in made.ranks])
        worst = max(worst, verdict.worst)
        if verdict.finding:
            return Verdict(worst, _in_sequence(verdict.finding, k, detail))
    return Verdict(worst)


def _in_sequence(finding: Finding, k: int, detail: Detail) -> Finding:
    backwards = ", ".join(str(i + 1) for i in detail["order"])
    return Finding(
        finding.outcome,
        f"call {k + 1} of 3: {finding.headline}",
        (
            f"three calls were made, the second {_words(detail['change'])}, the third as the first; "
            f"then their backward passes in the order {backwards}",
            *finding.details,
        ),
        finding.tensor,
    )


def _words(change: str) -> str:
    return f"in another dtype than {change}" if change in DTYPES else f"with another {change}"


def changed(case: Case, what: str) -> Case:
    """A case that differs in one thing and has the same shapes, on one rank at least, if that is possible."""
    if what in DTYPES:
        return case.replace(dtype=what, seed=case.seed + 1)
    if what == "length":
        longer = case.length % case.shards != 0 or case.length <= 1
        return case.replace(length=case.length + (1 if longer else -1), pass_length=True, seed=case.seed + 1)
    if what == "mask":
        return case.replace(is_causal=not case.is_causal, seed=case.seed + 1)
    if what == "segment length":
        segments = (case.segment_lengths[0] + 1, *case.segment_lengths[1:])
        return case.replace(segment_lengths=segments, seed=case.seed + 1)
    if what == "dilation rate":
        rates = (*case.dilation_rates[:-1], case.dilation_rates[-1] + 1)
        return case.replace(dilation_rates=rates, seed=case.seed + 1)
    if what == "scale":
        return case.replace(scale=0.25 if case.scale is None else None, seed=case.seed + 1)
    if what == "order of the inputs' axes":
        return case.replace(buffers="heads-first", seed=case.seed + 1)
    if what == "order of the upstream gradient's axes":
        return case.replace(upstream="transposed", seed=case.seed + 1)
    return case.replace(seed=case.seed + 1)


def _sequence_details(session: Session) -> st.SearchStrategy[Detail]:
    changes = ["seed"]
    if len(session.target.masks) == 2:
        changes.append("mask")
    if session.target.branches == "any":
        changes += ["segment length", "dilation rate"]
    if session.target.scales:
        changes.append("scale")
    if session.target.uneven:
        changes.append("length")
    if session.target.strides:
        changes.append("order of the inputs' axes")
        if session.target.gradients:
            changes.append("order of the upstream gradient's axes")
    changes += [dtype for dtype in session.target.dtypes if dtype != session.target.logic_dtype]
    orders = [list(order) for order in itertools.permutations(range(3))]
    return st.fixed_dictionaries({"change": st.sampled_from(changes), "order": st.sampled_from(orders)})


def _wanted(target: Target) -> tuple[str, ...]:
    return ("qkv",) if target.gradients else ("",)


def _any_option(target: Target, world_sizes: Sequence[int]) -> Axes:
    return {} if target.gradients else {"requires_grad": ("",)}


def _any_in_logic_dtype(target: Target, world_sizes: Sequence[int]) -> Axes:
    return _any_option(target, world_sizes) | {"dtype": (target.logic_dtype,)}


def _strides(target: Target, world_sizes: Sequence[int]) -> Axes:
    return plain(requires_grad=_wanted(target), buffers=BUFFERS, upstream=UPSTREAMS)(target, world_sizes)


def _sub_groups(target: Target, world_sizes: Sequence[int]) -> Axes:
    room = tuple(range(1, max(world_sizes)))  # a bystander at least
    return plain(requires_grad=_wanted(target), group=("sub-group",), ranks=room)(target, world_sizes)


def _state(target: Target, world_sizes: Sequence[int]) -> Axes:
    return plain(requires_grad=_wanted(target))(target, world_sizes)


def _needs_sub_groups(target: Target, world_sizes: Sequence[int]) -> str:
    if not target.subgroups:
        return "the target declares no sub-groups"
    return "" if max(world_sizes) > 1 else "a sub-group needs a world of at least two"


PURITY = Check(
    name="purity",
    promise="modifies no input and no upstream gradient, returns no view of an input, and leaves the process as it was",
    builds_on=("forward", "gradients"),
    axes=_any_in_logic_dtype,
    examine=_purity,
    weight=1,
)
STRIDES = Check(
    name="strides",
    promise="takes inputs and upstream gradients of any strides",
    builds_on=("forward", "gradients"),
    axes=_strides,
    examine=_judged,
    needs=lambda target, sizes: "" if target.strides else "the target declares that it takes contiguous inputs only",
)
SUBSETS = Check(
    name="grad-subsets",
    promise="gives the right gradients whichever inputs require them",
    builds_on=("gradients",),
    axes=plain(requires_grad=(*REQUIRES_GRAD, "")),
    examine=_judged,
    needs=needs_gradients,
)
SUB_GROUPS = Check(
    name="sub-groups",
    promise="works in any group of ranks, without the others taking part",
    builds_on=("forward", "gradients"),
    axes=_sub_groups,
    examine=_in_groups,
    detail=lambda session: st.fixed_dictionaries({"before": st.integers(0, 2)}),
    needs=_needs_sub_groups,
)
STATE = Check(
    name="state",
    promise="keeps nothing from one call that changes another, in any order of backward passes",
    builds_on=("forward", "gradients"),
    axes=_state,
    examine=_interleaved,
    detail=_sequence_details,
    weight=1.5,
)
