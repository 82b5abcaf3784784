"""Targets for the gate that reach what small random cases would not: the fused kernels, and the zigzag layout.

    python -m attention_gate gate benchmarks/targets.py:fused --device cuda --world-sizes 1,2,4

Cases are made regular, so that fused kernels take nearly all of them, however small. On a GPU ranks agree upon each
signature once, and a bad argument on one rank after that leaves the others waiting: small regular cases have so few
signatures that these targets let every call be the first, but for `steady`, which tries no bad arguments.
"""

from typing import Any

from torch import Tensor

from attention_gate import Target, impls
from attention_gate.impls import agreement, collective, robust
from attention_gate.impls.fused import kernels
from attention_gate.impls.fused import plan as fused_plan
from benchmarks.shapes import dense, regular, wide, wide_dense

kernels.least_rows = 2
fused_plan.least_elements = 0

_AGREED = {"refusals": "signatures that were agreed upon are not checked again"}
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


def flash_robust(query: Tensor, key: Tensor, value: Tensor, *, return_lse: bool = False, **options: Any) -> Any:
    """Robust, through the kernels of flash-attn-4 wherever the shape allows, however small."""
    path = impls.path_for(query, key, value, **options)
    with impls.kernels("flash-attn-4" if path.kernels == "fused" else "auto"):
        return fused_robust(query, key, value, return_lse=return_lse, **options)


_HALF_TYPES = ("bfloat16", "float16")
fused = Target(attend=fused_robust, fit=regular, dtypes=_HALF_TYPES, because=_BECAUSE)
steady = Target(
    attend=robust.attend,
    fit=regular,
    dtypes=_HALF_TYPES,
    refusals=False,
    because=_BECAUSE | _AGREED,
)
flash = Target(
    attend=flash_robust,
    fit=wide,
    dtypes=_HALF_TYPES,
    refusals=False,
    because=_BECAUSE | {"refusals": "what kernels serve is asked before bad arguments are refused"},
)
packed = Target(
    attend=fused_robust,
    fit=wide_dense,
    dtypes=_HALF_TYPES,
    terms=("window", "documents", "softcap", "sink", "queries"),
    refusals=False,
    because=_BECAUSE | _AGREED,
)
packed_zigzag = Target(
    attend=zigzag_robust,
    layout="zigzag",
    fit=wide_dense,
    dtypes=_HALF_TYPES,
    terms=("window", "documents", "softcap", "sink"),
    refusals=False,
    because=_BECAUSE | _AGREED,
)
gathering = Target(attend=fused_collective, fit=regular, dtypes=_HALF_TYPES, because=_BECAUSE)
fused_zigzag = Target(attend=zigzag_robust, layout="zigzag", fit=dense, dtypes=_HALF_TYPES, because=_BECAUSE)
zigzag = Target(attend=zigzag_robust, layout="zigzag")
