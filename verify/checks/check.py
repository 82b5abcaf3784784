"""What a check is: a promise, the part of the space of cases it is tried on, and how one example is examined."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.options import SMALL, Space, space
from attention_gate.verify.case.term_axes import WITHOUT_TERMS
from attention_gate.verify.checks.profiles import PROFILES, examples
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.target.target import Target

#: Parameters of an example beyond its case: plain data, so that it can be saved.
Parameters = dict[str, Any]

#: Axes that a check narrows, by name.
Axes = dict[str, Sequence[Any]]


@dataclass(frozen=True, kw_only=True)
class Check:
    """One promise of the contract and how it is tried.

    ``promise`` completes "the target …". ``builds_on``: checks that must pass first. A failure by an
    outcome in ``explains`` on several ranks does not block.
    ``axes`` narrows the space of options, by name. ``needs`` says in words what the target lacks for it, or "".
    ``weight``: number of examples relative to other checks, but not fewer than ``least``. ``parameters`` draws those of
    an example beyond its case. ``once`` gives those that come before chance, one example each, from the check's axes:
    to which options this example's case is narrowed, and its parameters.
    ``extra_cases`` gives cases of another kind, one example in ``extra_in``; None if there are none for the target.
    ``max_rows`` bounds a rank's rows. ``shaped`` makes of a drawn case the one that is run, printed and saved; doing
    so twice changes nothing more. ``pairwise``: tried until every pair of options has occurred. ``profiles`` are
    those that have time for it. ``devices``: those that it can be tried on, none for all.
    """

    name: str
    promise: str
    builds_on: tuple[str, ...] = ()
    explains: tuple[str, ...] = ()
    axes: Callable[[Target, Sequence[int]], Axes]
    examine: Callable[[Session, Case, Parameters], Verdict]
    weight: float = 1.0
    least: int = 1
    needs: Callable[[Target, Sequence[int]], str] = lambda target, world_sizes: ""
    parameters: Callable[[Session], st.SearchStrategy[Parameters]] = lambda session: st.just({})
    once: Callable[[Session, Space], Sequence[tuple[Axes, Parameters]]] = lambda session, axes: ()
    extra_cases: Callable[[Target, Sequence[int]], st.SearchStrategy[Case] | None] = lambda target, world_sizes: None
    extra_in: int = 6
    max_rows: int = 6
    shaped: Callable[[Session, Case], Case] = lambda session, case: case
    pairwise: bool = False
    profiles: tuple[str, ...] = tuple(PROFILES)
    devices: tuple[str, ...] = ()

    def space(self, target: Target, world_sizes: Sequence[int]) -> Space:
        """The options that this check's cases may have."""
        return space(target, world_sizes, **self.axes(target, world_sizes))

    def examples(self, profile: str) -> int:
        """How many it gets in that profile."""
        return max(self.least, examples(profile, self.weight))

    def runs_on(self, device: str) -> bool:
        """Whether it can be tried there."""
        return not self.devices or device in self.devices

    def fitted(self, session: Session, case: Case) -> Case:
        """The case as the target takes it and as this check runs it."""
        return self.shaped(session, session.fitted(case))

    def missing(self, target: Target, world_sizes: Sequence[int]) -> str:
        """Why the check cannot be tried, in words; empty if it can."""
        if reason := self.needs(target, world_sizes):
            return reason
        empty = [name for name, values in self.space(target, world_sizes).items() if not values]
        return f"the target supports no {empty[0]} that this check needs" if empty else ""


def plain(*, terms: bool = False, **changes: Sequence[Any]) -> Callable[[Target, Sequence[int]], Axes]:
    """Axes of the simplest call: small contiguous tensors of the widest dtype, the default group, no gradients.

    With ``terms`` the optional terms that the target declares are among them.
    """

    def axes(target: Target, world_sizes: Sequence[int]) -> Axes:
        return {
            **SMALL,
            "dtype": (target.logic_dtype,),
            "buffers": ("contiguous",),
            "upstream": ("contiguous",),
            "requires_grad": ("",),
            "group": ("default",),
            "caller": ("plain",),
            **({} if terms else WITHOUT_TERMS),
        } | changes

    return axes


def needs_gradients(target: Target, world_sizes: Sequence[int]) -> str:
    """Whether gradients can be asked for."""
    return "" if target.gradients else "the target declares no gradients"


def all_gradients(target: Target) -> tuple[str, ...]:
    """The values of requires_grad with which every gradient is asked for that the target has."""
    return ("qkv",) if target.gradients else ("",)


def any_option(target: Target, world_sizes: Sequence[int]) -> Axes:
    """Axes of all that the target supports, in small sizes and plain calls."""
    plainly = {**SMALL, "caller": ("plain",)}
    return plainly if target.gradients else {**plainly, "requires_grad": ("",)}
