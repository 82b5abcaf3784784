"""The order in which messages complete: any that a transport may choose gives the same right answer, and no deadlock.

Judged on the simulated network, as real transports choose the same few orders over and over.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache

import numpy as np
from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.from_bytes import integers, together
from attention_gate.verify.case.options import covering_rows, space
from attention_gate.verify.case.strategies import cases
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import MODELS, Schedule
from attention_gate.verify.target.target import Target

#: The network turns to the largest choice once there are more transfers to choose from than it says.
_CHOICES = st.lists(integers(0, 7), max_size=12)

#: World sizes beyond those that are asked for, odd, even and prime, the cheaper ones more often.
_LARGE = (*(5,) * 12, *(6, 7, 8) * 3, 11, 13, 16)


def _schedules(session: Session, case: Case, parameters: Parameters) -> Verdict:
    schedule = Schedule(parameters["model"], tuple(parameters["choices"]))
    cases = (case, case.replace(seed=case.seed + 1))[: parameters["calls"]]
    order = list(range(len(cases)))
    simulation = simulate(session, *cases, schedule=schedule, order=order)
    if (found := simulation.finding) is not None:
        if found.tensor == "wire" and case.head_dim != case.value_dim:
            widths = f"here rows of key are {case.head_dim} wide and rows of value {case.value_dim}"
            found = replace(found, details=(*found.details, widths))
        return Verdict(np.inf, found)
    budget_used = 0.0
    for k, made in enumerate(cases):
        verdict = session.judge(made, [simulation.run.value(rank)[k] for rank in made.ranks])
        budget_used = max(budget_used, verdict.budget_used)
        if verdict.finding:
            details = [f"on the simulated network, delivery model {schedule.model}"]
            if any("got nan" in line for line in verdict.finding.details):
                details.append(
                    "on the simulated network a receive buffer holds NaN until wait() returns: a buffer was read too "
                    "early"
                )
            if len(cases) > 1:
                details.append(f"call {k + 1} of {len(cases)}; all forward passes ran before the first backward pass")
            return Verdict(budget_used, replace(verdict.finding, details=(*verdict.finding.details, *details)))
    return Verdict(budget_used)


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    wanted = all_gradients(target)
    several = tuple(size for size in sorted(world_sizes) if size > 1)
    groups = ("default", "sub-group") if target.subgroups else ("default",)
    # Where keys and values differ in width, exchanging them shows in the sizes.
    widths = ("different",) if target.value_dim else ("same",)
    return plain(terms=True, ranks=several, requires_grad=wanted, group=groups, value_dim=widths)(target, world_sizes)


def _large_worlds(target: Target, world_sizes: Sequence[int]) -> st.SearchStrategy[Case] | None:
    """Cases of more ranks than real transports have here; none where the sizes of the world are a choice of few."""
    if not {2, 3, 4} <= set(world_sizes) or target.least_ranks > min(_LARGE):
        return None
    narrowed = {**_axes(target, world_sizes), "group": ("default",)}

    @cache
    def of(size: int) -> st.SearchStrategy[Case]:
        axes = space(target, (size,), **{**narrowed, "ranks": (size,)})
        return cases(axes, covering_rows(axes, size), (size,), max_rows=2)

    return st.sampled_from(_LARGE).flatmap(of)


def _details(session: Session) -> st.SearchStrategy[Parameters]:
    return together(model=st.sampled_from(MODELS), choices=_CHOICES, calls=st.sampled_from((1, 2)))


SCHEDULES = Check(
    name="schedules",
    promise="gives the right answer and never hangs, in any order of message completion (simulated network)",
    builds_on=("forward",),
    explains=("hang", "crash"),  # for which a real transport seldom tells the cause
    axes=_axes,
    examine=_schedules,
    weight=1.5,
    parameters=_details,
    needs=lambda target, sizes: "" if max(sizes) > 1 else "a world of one rank sends no messages",
    extra_cases=_large_worlds,
    max_rows=4,
)
