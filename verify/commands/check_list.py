"""Every check by its name, with its promise and what it needs; the needs are found by asking the check itself."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from attention_gate.verify.checks import CHECKS, Check
from attention_gate.verify.checks.profiles import PROFILES
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.target.choices import TERMS
from attention_gate.verify.target.target import CLAIMS, Target


def _attend(*tensors: Any, **options: Any) -> None:
    """Stands for an attention that supports everything; never called."""


_EVERYTHING = Target(attend=_attend, lse=True, claims=CLAIMS, terms=tuple(TERMS))
_SIZES = (1, 2, 3, 4)

#: What a target may lack, in words, and the target that lacks nothing else.
_LACKING: dict[str, Target] = {
    "gradients": replace(_EVERYTHING, gradients=False),
    "return_lse": replace(_EVERYTHING, lse=False),
    "sub-groups": replace(_EVERYTHING, subgroups=False),
    "inputs of any strides": replace(_EVERYTHING, strides=False),
    "refusals": replace(_EVERYTHING, refusals=False),
    "callers other than plain": replace(_EVERYTHING, callers=("plain",)),
    "inputs that are sharded": replace(_EVERYTHING, claims=(), replicated=True),
    "a half type": replace(_EVERYTHING, dtypes=("float64", "float32")),
    **{f"the claim {name}": replace(_EVERYTHING, claims=tuple(set(CLAIMS) - {name})) for name in CLAIMS},
}


def check_list(width: int = 100) -> str:
    """The list as text: name, promise, and in a second line what the check needs and builds on."""
    lines = []
    for check in CHECKS:
        lines += textwrap.wrap(
            f"{check.name}: the target {check.promise}", width, subsequent_indent="    ", break_on_hyphens=False
        )
        facts = [f"needs {', '.join(wanted)}"] if (wanted := needs(check)) else []
        facts += [f"builds on {' and '.join(check.builds_on)}"] if check.builds_on else []
        if facts:
            lines += textwrap.wrap("; ".join(facts), width, initial_indent="    ", subsequent_indent="      ")
    return "\n".join(lines)


def needs(check: Check) -> list[str]:
    """What a run must have for the check to be tried, in words."""
    found = [] if _tried(check, _EVERYTHING, (1,)) else ["two ranks or more"]
    unclaimed = _tried(check, replace(_EVERYTHING, claims=()), _SIZES)
    for words, lacking in _LACKING.items():
        of_claims = not lacking.claims and not unclaimed
        if not of_claims and not _tried(check, lacking, _SIZES):
            found.append(words)
    if check.name in SimulatedWorlds.checks:
        found.append("--device cpu")
    if check.profiles != tuple(PROFILES):
        found.append(f"--profile {' or '.join(check.profiles)}")
    return found


def _tried(check: Check, target: Target, sizes: Sequence[int]) -> bool:
    return not check.missing(target, sizes)
