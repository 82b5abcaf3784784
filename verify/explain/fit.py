"""Whether a target returned the result of a wrong formula, up to rounding, and not the right result."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from attention_gate.verify.explain.failing_case import Array, Setting
from attention_gate.verify.judge.error_budget import UNIT_ROUNDOFF

#: A formula's result counts as different from the right one if it is this many budgets off.
_FAR = 100.0

#: Roundings, beside the budget of the right answer, that the result of a wrong formula may be off by.
_ROUNDINGS = 64.0


@np.errstate(all="ignore")
def fits(s: Setting, got: Mapping[str, Array], guess: Mapping[str, Array], judged: Sequence[str]) -> bool:
    """Whether every judged tensor is as the guess says, and one of those that it changes is far from right.

    ``got`` has the target's tensors. Tensors that the guess does not give must be right.
    """
    present = [name for name in judged if name in got]
    return is_far(s, guess, present) and all(
        _same(got[name], guess.get(name, s.answer.expected[name]), _slack(s, guess, name)).all() for name in present
    )


@np.errstate(all="ignore")
def is_far(s: Setting, guess: Mapping[str, Array], judged: Sequence[str]) -> bool:
    """Whether the guess is far from right in one of these tensors: if not, no result of the target refutes it."""
    given = [name for name in judged if name in guess]
    right = s.answer.expected
    return all(guess[name].shape == right[name].shape for name in given) and not all(
        _same(guess[name], right[name], _FAR * _slack(s, guess, name)).all() for name in given
    )


def _slack(s: Setting, guess: Mapping[str, Array], name: str) -> Array:
    """How far a tensor may be from what the guess says of it."""
    right = s.answer.expected[name]
    spread = sum(np.abs(one[np.isfinite(one)]).max(initial=0.0) for one in (guess.get(name, right), right))
    return np.asarray(s.answer.budget[name] + _ROUNDINGS * UNIT_ROUNDOFF[s.case.dtype] * spread)


def _same(one: Array, other: Array, slack: Array) -> Array:
    equal = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(np.isfinite(one) & np.isfinite(other), np.abs(one - other) <= slack, equal)
