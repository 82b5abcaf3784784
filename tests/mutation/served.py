"""Targets whose calls run through impls.fused on a CPU, plain products as its kernels; copied beside a mutant."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from impls import collective, robust
from impls.fused import kernels
from impls.fused import plan as fused_plan
from verify import Case, Target

kernels.objection = lambda *_: None  # type: ignore[assignment]
kernels.least_rows = 1
fused_plan.least_elements = 0


def in_zigzag(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    """Robust in the zigzag layout."""
    return robust.attend(query, key, value, layout="zigzag", **options)


def regular(case: Case) -> Case:
    """Return the case with powers of two for shards, segments, rates and heads."""
    rows, heads = _power(-(-case.length // case.shards)), _power(case.heads)
    if not case.length:
        return case
    lengths = tuple(_power(length) for length in case.segment_lengths)
    rates = tuple(min(_power(rate), length, rows) for rate, length in zip(case.dilation_rates, lengths, strict=True))
    return case.replace(
        length=rows * case.shards,
        heads=heads,
        kv_heads=heads if max(rates) > 1 else min(heads, _power(case.kv_heads)),
        segment_lengths=lengths,
        dilation_rates=rates,
    )


def dense(case: Case) -> Case:
    """Return the case as one dense branch over even parts."""
    length = -(-regular(case).length // (2 * case.shards)) * 2 * case.shards
    return regular(case).replace(length=length, segment_lengths=(max(1, length),), dilation_rates=(1,))


def _power(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


_BECAUSE = {"fit": "other shapes take another path"}
ring = Target(attend=robust.attend, fit=regular, because=_BECAUSE)
gathering = Target(attend=collective.attend, fit=regular, because=_BECAUSE)
zigzag = Target(
    attend=in_zigzag,
    layout="zigzag",
    fit=dense,
    scales=False,
    because=_BECAUSE | {"scales": "a scale that is not positive takes another path"},
)
