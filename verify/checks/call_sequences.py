"""State between calls: three forward passes, the second with another option, then three backward passes."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.from_bytes import together
from attention_gate.verify.case.lengths import with_length
from attention_gate.verify.case.options import Space
from attention_gate.verify.case.other_terms import CHANGING, with_other_term
from attention_gate.verify.case.term_axes import AXIS_OF, OFF
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.target.choices import DTYPES
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.finding import Finding


def calls_of(session: Session, case: Case, parameters: Parameters) -> tuple[Case, Case, Case]:
    """The three calls of an example: the second differs from the others in one thing."""
    other = changed(case, parameters["change"])
    if session.target.branches == "dense":  # the one branch is as long as the sequence, whatever that is now
        other = other.replace(segment_lengths=(max(other.length, 1),))
    other = session.fitted(other)
    # A sum that an earlier call made wider than it need be is not wrong: the narrower dtype comes first.
    return (other, case, other) if parameters["change"] in DTYPES else (case, other, case)


def _interleaved(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """Three calls, and then their backward passes in some order."""
    calls = calls_of(session, case, parameters)
    run = session.run("interleave", *calls, order=parameters["order"])
    if finding := finding_of(run):
        return Verdict(np.inf, finding)
    budget_used = 0.0
    for k, made in enumerate(calls):
        verdict = session.judge(made, [run.value(rank)[k] for rank in made.ranks])
        budget_used = max(budget_used, verdict.budget_used)
        if verdict.finding:
            return Verdict(budget_used, _in_sequence(verdict.finding, k, parameters))
    return Verdict(budget_used)


def _in_sequence(finding: Finding, k: int, parameters: Parameters) -> Finding:
    backwards = ", ".join(str(i + 1) for i in parameters["order"])
    return Finding(
        finding.outcome,
        f"call {k + 1} of 3: {finding.headline}",
        (
            f"three calls: the first and third alike, the second {_words(parameters['change'])}; "
            f"then three backward passes, in the order {backwards}",
            *finding.details,
        ),
        finding.tensor,
    )


def _words(change: str) -> str:
    if change in DTYPES:
        return f"in another dtype than {change}"
    return "with other documents" if change == "documents" else f"with another {change}"


def changed(case: Case, what: str) -> Case:
    """A case that differs in one thing and has the same shapes, on one rank at least, if that is possible."""
    if what in CHANGING:
        return with_other_term(case, what).replace(seed=case.seed + 1)
    if what in DTYPES:
        return case.replace(dtype=what, seed=case.seed + 1)
    if what == "length":
        longer = case.length % case.shards != 0 or case.length <= 1
        length = case.length + (1 if longer else -1)
        other = with_length(case, length).replace(pass_length=True, seed=case.seed + 1)
        return other.replace(segment_lengths=case.segment_lengths)
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


_ORDERS = [list(order) for order in itertools.permutations(range(3))]

#: How often each kind of change comes before chance: in some cases it has no effect all the same.
_ROUNDS = 3


def _changes(session: Session) -> list[str]:
    """The things in which the second call can differ, of those that the target takes."""
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
    return changes + [AXIS_OF[term] for term in session.target.terms if AXIS_OF[term] in CHANGING]


def _sequence_details(session: Session) -> st.SearchStrategy[Parameters]:
    return together(change=st.sampled_from(_changes(session)), order=st.sampled_from(_ORDERS))


def _once(session: Session, axes: Space) -> list[tuple[Axes, Parameters]]:
    """Each kind of change some times, in cases in which it matters.

    What is kept from call to call under too narrow a key shows in one kind alone.
    """
    usual = {"data": ("normal",), "scale": ("default",), "branches": ("dense",), "shards": ("even", "uneven")}
    found: list[tuple[Axes, Parameters]] = []
    # Those of optional terms first: few cases have the term, so that chance seldom comes to them.
    kinds = sorted(_changes(session), key=lambda change: change not in CHANGING)
    for number, change in enumerate(kinds * _ROUNDS):
        where = dict(usual)
        if change in CHANGING:
            where[change] = tuple(option for option in axes[change] if option != OFF)
        if change == "order of the inputs' axes":
            where["heads"] = ("several", "grouped")
        if change in ("segment length", "dilation rate"):
            del where["branches"]
        some = {axis: [option for option in options if option in axes[axis]] for axis, options in where.items()}
        those: Axes = {axis: options for axis, options in some.items() if options}
        found.append((those, {"change": change, "order": _ORDERS[number % len(_ORDERS)]}))
    return found


def _state(target: Target, world_sizes: Sequence[int]) -> Axes:
    # Other numbers of queries leave a case few other branches, masks and lengths to change to.
    wanted = all_gradients(target)
    return plain(terms=True, requires_grad=wanted, queries=(OFF,), joint=(OFF,))(target, world_sizes)


STATE = Check(
    name="state",
    promise="gives results that do not depend on other calls, in any order of backward passes",
    builds_on=("forward", "gradients"),
    axes=_state,
    examine=_interleaved,
    parameters=_sequence_details,
    once=_once,
    weight=2,
)
