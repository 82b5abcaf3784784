"""What is judged, by name and in words."""

from __future__ import annotations

#: The gradients that are judged.
GRADIENTS = ("query.grad", "key.grad", "value.grad")

#: What every call has, in the order in which it is judged.
VALUES = ("out", "lse", *GRADIENTS)

#: The gradients of what every rank has in whole.
OF_ALL_RANKS = ("sink.grad", "joint_key.grad", "joint_value.grad")

#: All that is judged, with what only some calls have.
ALL_VALUES = (*VALUES, *OF_ALL_RANKS)


def in_words(name: str) -> str:
    """A name as a sentence has it: ``in_words("key.grad")`` is "the gradient of key"."""
    return {"out": "the output", "lse": "the log-sum-exp"}.get(name, f"the gradient of {name.removesuffix('.grad')}")
