"""Which options, and which pairs of them, the cases that were tried had."""

from __future__ import annotations

from collections.abc import Iterable

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.extents import extents_of
from attention_gate.verify.case.options import Row, pairs
from attention_gate.verify.case.strides import buffers_of, upstream_of
from attention_gate.verify.case.term_axes import values_of_terms


def options_of(case: Case) -> Row:
    """The options of a case, by axis, as attention_gate.verify.case.options names them.

    An option counts where it changes the call: strides that are those of a contiguous tensor are contiguous.
    """
    ranks = case.shards
    return {
        "ranks": ranks,
        "mask": "causal" if case.is_causal else "full",
        "shards": "sparse" if case.length < ranks and ranks > 1 else "uneven" if case.length % ranks else "even",
        **extents_of(case),
        "branches": "dense" if case.is_dense else "single" if len(case.segment_lengths) == 1 else "several",
        "scale": "default" if case.scale is None else "zero" if case.scale == 0 else "given",
        "data": case.data,
        "buffers": buffers_of(case),
        "upstream": upstream_of(case),
        "requires_grad": case.requires_grad,
        "caller": case.caller,
        "group": "default" if case.group is None else "sub-group",
        "dtype": case.dtype,
        **values_of_terms(case),
    }


def covered_pairs(cases: Iterable[Case]) -> set[tuple[tuple[str, object], tuple[str, object]]]:
    """The pairs of options that occurred together in some case."""
    return {pair for case in cases for pair in pairs(options_of(case))}
