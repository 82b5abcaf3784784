"""The same case with another value of one optional term."""

from __future__ import annotations

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.styles import MASK_NAMES

#: The terms of which there is another value, by the names of their axes.
CHANGING = ("window", "documents", "mask function", "softcap")


def with_other_term(case: Case, term: str) -> Case:
    """The case with another window, other documents, another mask or another cap, by the name of the term's axis.

    Where the rest of the case leaves no other value, such as other documents beside rows that every rank has, it stays.
    """
    if term in ("documents", "mask function") and (case.query_length is not None or case.joint is not None):
        return case
    if term == "window":
        left = 0 if case.window is None else (case.window[0] or 0) + 1
        return case.replace(window=(left, None))
    if term == "documents":
        lengths = case.document_lengths
        halves = (case.length // 2, case.length - case.length // 2)
        backwards = halves if lengths is None else lengths[::-1]
        return case.replace(document_lengths=None if backwards == lengths else backwards)
    if term == "mask function":
        at = -1 if case.mask is None else MASK_NAMES.index(case.mask)
        return case.replace(mask=MASK_NAMES[(at + 1) % len(MASK_NAMES)])
    return case.replace(softcap=1.0 if case.softcap is None else 2.0 * case.softcap)
