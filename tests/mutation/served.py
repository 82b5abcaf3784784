"""Targets whose calls run through impls.fused on a CPU, plain products as its kernels; copied beside a mutant."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

from torch import Tensor

from attention_gate import Target
from attention_gate.impls import collective, path, robust
from attention_gate.impls.fused import kernels
from attention_gate.impls.fused import plan as fused_plan
from benchmarks.shapes import dense, regular

# By these names the unchanged package is found, whatever this one is called.
_RIGHT = tuple(import_module(f"attention_gate.impls.{name}") for name in ("path", "fused.kernels", "fused.plan"))

for _kernels, _plan in ((kernels, fused_plan), _RIGHT[1:]):
    _kernels.objection = lambda *_: None  # type: ignore[assignment]
    _kernels.least_rows = 1
    _plan.least_elements = 0


def served(attend: Callable[..., Any], layout: str) -> Callable[..., Any]:
    """Return the function in that layout; it raises where a call takes another path than the unchanged package's."""

    def attend_or_raise(query: Tensor, key: Tensor, value: Tensor, *, return_lse: bool = False, **options: Any) -> Any:
        mine, right = (each.path_for(query, key, value, layout=layout, **options).kernels for each in (path, _RIGHT[0]))
        if mine != right:
            raise RuntimeError(f"{mine} kernels, and not {right} ones")
        return attend(query, key, value, layout=layout, return_lse=return_lse, **options)

    return attend_or_raise


_BECAUSE = {"fit": "other shapes take another path", "refusals": "bad arguments do not come as far"}
ring = Target(attend=served(robust.attend, "contiguous"), fit=regular, refusals=False, because=_BECAUSE)
gathering = Target(attend=served(collective.attend, "contiguous"), fit=regular, refusals=False, because=_BECAUSE)
zigzag = Target(
    attend=served(robust.attend, "zigzag"),
    layout="zigzag",
    fit=dense,
    scales=False,
    refusals=False,
    because=_BECAUSE | {"scales": "a scale that is not positive takes another path"},
)
