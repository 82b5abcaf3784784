"""What of the sum over the branches comes out of a call, in the dialect of a target."""

from __future__ import annotations

from attention_gate.verify.case.case import Case


def branch_share(case: Case, dialect: str) -> float:
    """1, or in `grouped-mean`, which divides by the number of branches, one over that number."""
    return 1.0 / len(case.segment_lengths) if dialect == "grouped-mean" else 1.0
