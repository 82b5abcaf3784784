"""Robust and Collective with each packed document shared by itself, as targets of the gate."""

from __future__ import annotations

from functools import partial

from attention_gate import Case, Target
from attention_gate.impls.collective import attend as gathering
from attention_gate.impls.robust import attend as ring

ring_by_document = partial(ring, layout="document-zigzag")
gathering_by_document = partial(gathering, layout="document-zigzag")
TERMS = ("documents", "window", "mask", "softcap", "slopes", "sink")


def with_documents(case: Case) -> Case:
    """The layout is one of documents: without any, the sequence is one."""
    return case if case.document_lengths is not None else case.replace(document_lengths=(case.length,))


robust = Target(
    attend=ring_by_document, layout="document-zigzag", terms=TERMS, fit=with_documents, lse=True, claims=("traffic",)
)
collective = Target(
    attend=gathering_by_document,
    layout="document-zigzag",
    terms=TERMS,
    fit=with_documents,
    lse=True,
    claims=("traffic",),
)
