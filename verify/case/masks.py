"""Masks by name: functions of head, query position and key position, of numpy's arrays or torch's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from attention_gate.verify.case.case import Case


def prefix(head: Any, query: Any, key: Any) -> Any:
    """Causal, but for the first three keys, which everybody sees: a prefix that is read as a whole."""
    return (key <= query) | ((key < 3) & (head >= 0))


def thirds(head: Any, query: Any, key: Any) -> Any:
    """Every third key is hidden, others from each head and each query; some queries see nothing of a short sequence."""
    return (key + query + head) % 3 != 0


def by_head(head: Any, query: Any, key: Any) -> Any:
    """Even heads look back, odd ones ahead."""
    return (key - query) * (1 - 2 * (head % 2)) <= 0


MASKS: dict[str, Callable[[Any, Any, Any], Any]] = {"prefix": prefix, "thirds": thirds, "by head": by_head}


def visibility(case: Case) -> dict[str, Any]:
    """The case's documents, window and mask, as reference.multiplicity takes them."""
    return {
        "document_lengths": case.document_lengths,
        "window": case.window,
        "mask": None if case.mask is None else MASKS[case.mask],
    }
