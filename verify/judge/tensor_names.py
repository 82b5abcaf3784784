"""What is judged, by name and in words."""

from __future__ import annotations

#: The gradients that are judged.
GRADIENTS = ("query.grad", "key.grad", "value.grad")

#: All that is judged, in the order in which it is.
VALUES = ("out", "lse", *GRADIENTS, "sink.grad")


def in_words(name: str) -> str:
    """A name as a sentence has it: ``in_words("key.grad")`` is "the gradient of key"."""
    return {"out": "the output", "lse": "the log-sum-exp"}.get(name, f"the gradient of {name.removesuffix('.grad')}")
