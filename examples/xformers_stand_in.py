"""A stand-in for xformers' memory-efficient attention on torch's own operations, for where no wheel of it installs.

import xformers_stand_in

xformers_stand_in.install()  # before the library that imports xformers; does nothing where xformers is there
"""

from __future__ import annotations

import importlib.util
import sys
import types

import torch.nn.functional as F
from torch import Tensor


class LowerTriangularMask:
    """The causal mask, by xformers' name."""


def memory_efficient_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_bias: LowerTriangularMask | None = None,
    p: float = 0.0,
    scale: float | None = None,
    *,
    op: object = None,
) -> Tensor:
    """(batch, rows, heads, dim) in and out; which kernel, op, makes no difference here."""
    if p:
        raise NotImplementedError("the stand-in for xformers knows no dropout")
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    causal = isinstance(attn_bias, LowerTriangularMask)
    return F.scaled_dot_product_attention(*heads_first, is_causal=causal, scale=scale).transpose(1, 2)


def install() -> None:
    """Register the stand-in as ``xformers``, unless the real one can be imported."""
    if "xformers" in sys.modules or importlib.util.find_spec("xformers") is not None:
        return
    package, ops = types.ModuleType("xformers"), types.ModuleType("xformers.ops")
    for name in ("LowerTriangularMask", "memory_efficient_attention"):
        setattr(ops, name, globals()[name])
    ops.AttentionOp = object
    package.ops = ops
    sys.modules |= {"xformers": package, "xformers.ops": ops}
