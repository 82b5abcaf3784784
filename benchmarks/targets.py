"""Targets for the gate that reach what small random cases would not: the fused kernels, and the zigzag layout.

    python -m verify gate benchmarks/targets.py:fused --device cuda --world-sizes 1,2,4

Cases are made regular, so that fused kernels take nearly all of them, however small. On a GPU ranks agree upon each
signature once, and a bad argument on one rank after that leaves the others waiting: small regular cases have so few
signatures that these targets let every call be the first, but for `steady`, which tries no bad arguments.
"""

from typing import Any

from torch import Tensor

from impls import agreement, collective, robust
from impls.fused import kernels
from impls.fused import plan as fused_plan
from verify import Case, Target

kernels.least_rows = 2
fused_plan.least_elements = 0

_BECAUSE = {"fit": "other shapes take another path", "dtypes": "fused kernels take half types"}


def fused_robust(query: Tensor, key: Tensor, value: Tensor, *, return_lse: bool = False, **options: Any) -> Any:
    """Robust, through fused kernels wherever the shape allows."""
    agreement.forget()
    return robust.attend(query, key, value, return_lse=return_lse, **options)


def fused_collective(query: Tensor, key: Tensor, value: Tensor, *, return_lse: bool = False, **options: Any) -> Any:
    """Collective, through fused kernels wherever the shape allows."""
    agreement.forget()
    return collective.attend(query, key, value, return_lse=return_lse, **options)


def zigzag_robust(query: Tensor, key: Tensor, value: Tensor, *, return_lse: bool = False, **options: Any) -> Any:
    """Robust in the zigzag layout."""
    agreement.forget()
    return robust.attend(query, key, value, return_lse=return_lse, layout="zigzag", **options)


def regular(case: Case) -> Case:
    """Return the case with powers of two for shards, segments, rates and heads, and widths that kernels take."""
    rows = _power(-(-case.length // case.shards))
    if not case.length:
        return case
    heads = _power(case.heads)
    lengths = tuple(_power(length) for length in case.segment_lengths)
    rates = tuple(min(_power(rate), length, rows) for rate, length in zip(case.dilation_rates, lengths, strict=True))
    return case.replace(
        length=rows * case.shards,
        heads=heads,
        kv_heads=heads if max(rates) > 1 else min(heads, _power(case.kv_heads)),
        head_dim=-(-case.head_dim // 8) * 8,
        value_dim=-(-case.value_dim // 8) * 8,
        segment_lengths=lengths,
        dilation_rates=rates,
    )


def dense(case: Case) -> Case:
    """Return the case as one dense branch over even parts."""
    case = regular(case)
    length = -(-case.length // (2 * case.shards)) * 2 * case.shards
    return case.replace(length=length, segment_lengths=(max(1, length),), dilation_rates=(1,))


def _power(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()


_HALF_TYPES = ("bfloat16", "float16")
fused = Target(attend=fused_robust, fit=regular, dtypes=_HALF_TYPES, because=_BECAUSE)
steady = Target(
    attend=robust.attend,
    fit=regular,
    dtypes=_HALF_TYPES,
    refusals=False,
    because=_BECAUSE | {"refusals": "signatures that were agreed upon are not checked again"},
)
gathering = Target(attend=fused_collective, fit=regular, dtypes=_HALF_TYPES, because=_BECAUSE)
fused_zigzag = Target(attend=zigzag_robust, layout="zigzag", fit=dense, dtypes=_HALF_TYPES, because=_BECAUSE)
zigzag = Target(attend=zigzag_robust, layout="zigzag")
