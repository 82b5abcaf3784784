"""Masks by name: functions of head, query position and key position, of numpy's arrays or torch's tensors."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from attention_gate import reference
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
    """The case's documents, window and mask, as reference.dilated_attention takes them."""
    return {
        "document_lengths": case.document_lengths,
        "query_lengths": case.query_lengths,
        "window": case.window,
        "mask": None if case.mask is None else MASKS[case.mask],
    }


def branch_masks(case: Case, dialect: str) -> np.ndarray:
    """Whether a query sees a key of all keys, branch by branch: bool (branches, heads, queries, keys)."""
    branches = reference.branches(case.segment_lengths, case.dilation_rates)
    return reference.branch_masks(
        case.keys, case.heads, branches, case.is_causal, dialect, query_length=case.queries, **visibility(case)
    )


def joint_and_own(case: Case) -> tuple[slice, slice]:
    """Which of all keys are those that every rank has, and which are those of the sequence."""
    if case.joint is None or case.joint[0] == "front":
        return slice(0, case.joint_rows), slice(case.joint_rows, case.keys)
    return slice(case.length, case.keys), slice(0, case.length)
