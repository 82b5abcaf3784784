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
    far = False
    for name in judged:
        if name not in got:
            continue
        right, budget = s.answer.expected[name], s.answer.budget[name]
        said = guess.get(name, right)
        if said.shape != right.shape:
            return False
        spread = np.abs(said[np.isfinite(said)]).max(initial=0.0) + np.abs(right[np.isfinite(right)]).max(initial=0.0)
        slack = budget + _ROUNDINGS * UNIT_ROUNDOFF[s.case.dtype] * spread
        if not _same(got[name], said, slack).all():
            return False
        far = far or not _same(said, right, _FAR * slack).all()
    return far


def _same(one: Array, other: Array, slack: Array) -> Array:
    equal = (one == other) | (np.isnan(one) & np.isnan(other))
    return np.where(np.isfinite(one) & np.isfinite(other), np.abs(one - other) <= slack, equal)
