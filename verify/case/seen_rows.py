"""Which rows of a long case see something, from the schedule alone."""

from __future__ import annotations

import numpy as np

from attention_gate import reference
from attention_gate.verify.case.case import Case


def sees_itself(case: Case, dialect: str, positions: np.ndarray) -> np.ndarray:
    """Whether the query at each position sees its own key, bool (positions, heads).

    Causality and windows never hide it; a mask may, and of that the case must have none that does. Then a row that does
    not see itself is selected in no branch, or in no document, and sees nothing at all.
    """
    branches = reference.branches(case.segment_lengths, case.dilation_rates)
    offsets = reference.head_offsets(case.heads, branches, dialect)
    seen = np.zeros((len(positions), case.heads), dtype=np.bool_)
    for branch, of_heads in zip(branches, offsets, strict=True):
        for offset in np.unique(of_heads):
            seen[:, of_heads == offset] |= reference.selected(branch, int(offset), case.length)[positions][:, None]
    if case.document_lengths is not None:
        seen &= (positions < sum(case.document_lengths))[:, None]
    return seen
