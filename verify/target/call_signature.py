"""Whether a callable takes the arguments that the gate passes, and the adapter that would take them for it."""

from __future__ import annotations

import inspect
from dataclasses import dataclass

from attention_gate.verify.target.layouts import INTERLEAVED
from attention_gate.verify.target.source import Source, TargetError
from attention_gate.verify.target.target import Target
from attention_gate.verify.target.written_adapter import (
    PASSED,
    SYNONYMS,
    TENSORS,
    adapter,
    adapter_file,
    parameters_of,
)

#: What the optional terms of a target are passed as, where not by their own names.
_TERMS = {
    "documents": ("document_lengths",),
    "queries": ("query_length",),
    "joint": ("joint_key", "joint_value", "joint"),
}


class SignatureError(TargetError):
    """The callable does not take the arguments that the gate passes. Its text has several lines: which, and a way."""


@dataclass(frozen=True)
class Misfit:
    """What does not fit: the arguments that are not taken, and the parameters that nothing is passed for."""

    signature: inspect.Signature
    not_taken: tuple[str, ...]
    not_given: tuple[str, ...]
    takes_three: bool

    def alias(self, argument: str) -> str:
        """The parameter that seems to mean an argument by another name; "" if there is none."""
        return next((name for name in SYNONYMS.get(argument, ()) if name in self.signature.parameters), "")

    @property
    def by_keyword(self) -> bool:
        """Whether the tensors may be the first keywords instead."""
        by_position, others = parameters_of(self.signature)
        return not by_position and len(others) >= len(TENSORS)


def check_signature(target: Target, source: Source) -> None:
    """SignatureError unless the target takes the arguments that the gate passes; its text shows an adapter."""
    found = misfit(target)
    if found is None:
        return
    lines = [f"{source} does not take the arguments that the gate passes; its signature is {found.signature}"]
    if not found.takes_three:
        lines.append("  it does not take three tensors (query, key, value) by position")
    if found.not_taken:
        words = [name + (f" (yours: {alias})" if (alias := found.alias(name)) else "") for name in found.not_taken]
        lines.append(f"  not taken: {', '.join(words)}")
    if found.not_given:
        lines.append(f"  not given: {', '.join(found.not_given)}")
    given = [f"{name}=…" for name in passed_to(target)]
    lines.append(f"The gate calls attend(query, key, value, {', '.join(given[:2])},")
    rows = [", ".join(given[first : first + 4]) for first in range(2, len(given), 4)]
    lines += [f"                      {row}{',' if row != rows[-1] else ').'}" for row in rows]
    if target != Target(attend=target.attend):
        lines.append("Let attend take **_ for what it does not need; what it does not support, the Target declares.")
        raise SignatureError("\n".join(lines))
    if not found.takes_three and not found.by_keyword:
        lines.append("Let a function that takes these call yours: an adapter of a few lines.")
        raise SignatureError("\n".join(lines))
    place = adapter_file(source)
    lines.append(f"This adapter takes what is passed. To write it to {place.name}, and judge that:")
    lines.append("")
    lines.append(f"    attention-gate init {source}")
    lines += ["", *(f"    {line}".rstrip() for line in adapter(target.attend, source).splitlines())]
    raise SignatureError("\n".join(lines))


def passed_to(target: Target) -> list[str]:
    """The keyword arguments that a target is given in one call or another."""
    passed = [*PASSED, *(name for term in target.terms for name in _TERMS.get(term, (term,)))]
    passed += ["query_lengths"] if {"documents", "queries"} <= {*target.terms} else []
    passed += ["interleave"] if target.layout == INTERLEAVED else []
    passed += ["return_lse"] if target.lse else []
    return passed


def misfit(target: Target) -> Misfit | None:
    """How the call that the gate makes fails to bind; None if it binds, or if the signature cannot be known."""
    try:
        signature = inspect.signature(target.attend)
    except (TypeError, ValueError):
        return None
    passed = passed_to(target)
    try:
        signature.bind(*TENSORS, **dict.fromkeys(passed))
        return None
    except TypeError:
        pass
    by_position, others = parameters_of(signature)
    anything = any(one.kind is one.VAR_KEYWORD for one in signature.parameters.values())
    takes_three = len(by_position) >= len(TENSORS) or any(
        one.kind is one.VAR_POSITIONAL for one in signature.parameters.values()
    )
    free = {one.name for one in (*by_position[len(TENSORS) :], *others) if one.kind is not one.POSITIONAL_ONLY}
    return Misfit(
        signature,
        tuple(name for name in passed if name not in free and not anything),
        tuple(
            one.name
            for one in (*by_position[len(TENSORS) :], *others)
            if one.default is one.empty and one.name not in passed
        ),
        takes_three,
    )
