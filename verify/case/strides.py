"""Whether the strides that a case asks for change its call: a tensor of one head is contiguous in any order of axes."""

from __future__ import annotations

from attention_gate.verify.case.case import Case


def buffers_of(case: Case) -> str:
    """The strides of query, key and value, as far as they differ from those of contiguous tensors on some rank."""
    rows = _rows(case)
    shapes = [
        (case.batch, rows, heads, dim)
        for heads, dim in ((case.heads, case.head_dim), (case.kv_heads, case.head_dim), (case.kv_heads, case.value_dim))
    ]
    return case.buffers if any(_differs(shape, case.buffers) for shape in shapes) else "contiguous"


def upstream_of(case: Case) -> str:
    """The form of the upstream gradient, as far as there is one and it differs from a contiguous one on some rank."""
    shape = (case.batch, _rows(case), case.heads, case.value_dim)
    return case.upstream if case.requires_grad and _differs(shape, case.upstream) else "contiguous"


def _rows(case: Case) -> int:
    """The most rows that a rank owns."""
    return -(-case.length // case.shards)


def _differs(shape: tuple[int, int, int, int], form: str) -> bool:
    """Whether a tensor of that shape in that form is not contiguous."""
    batch, rows, heads, dim = shape
    if not batch * rows * heads * dim:
        return False
    if form == "heads-first":
        return rows > 1 and heads > 1
    if form == "transposed":
        return sum(size > 1 for size in (rows, heads, dim)) > 1
    if form == "sliced":
        return batch * rows * heads * dim > 1
    if form == "packed":
        return batch * rows * heads > 1
    return form == "expanded" and batch * rows * heads * dim > 1
