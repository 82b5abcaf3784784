"""The attention kernels that can be imported here, by name: what an implementation could use at best."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

#: Attention of query, key and value (batch, heads, rows, dim), causal or not, with gradients.
Kernel = Callable[[Tensor, Tensor, Tensor, bool], Tensor]

#: The part of a root mean square that two right kernels differ by at most, in half types.
TOLERANCE = 0.02


def kernels(device: torch.device) -> dict[str, Kernel]:
    """All that are importable, torch's own first."""
    if device.type != "cuda":
        return {"torch's flash kernel": _torch(SDPBackend.FLASH_ATTENTION), "plain products": _torch(SDPBackend.MATH)}
    found = {
        "cuDNN": _torch(SDPBackend.CUDNN_ATTENTION),
        "torch's FlashAttention-2": _torch(SDPBackend.FLASH_ATTENTION),
    }
    flash = _flash_attn_4()
    return found if flash is None else {**found, "flash-attn-4": flash}


def objection(device: torch.device) -> str:
    """Why flash-attn-4, the fastest on some GPUs, is not among them; empty if it is, or has no part in it."""
    return _imported()[1] if device.type == "cuda" else ""


def differ(one: Tensor, other: Tensor) -> bool:
    """Whether two results, of which one may be wrong, differ by more than their rounding."""
    mine, right = one.detach().float(), other.detach().float()
    error = float((mine - right).square().mean().sqrt())
    return not error <= TOLERANCE * float(right.square().mean().sqrt())


def _torch(backend: SDPBackend) -> Kernel:
    def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
        with sdpa_kernel(backend):
            return F.scaled_dot_product_attention(query, key, value, is_causal=is_causal)

    return attend


def _flash_attn_4() -> Kernel | None:
    function, _ = _imported()
    if function is None:
        return None

    def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
        result = function(*(rows.transpose(1, 2) for rows in (query, key, value)), causal=is_causal)
        out: Tensor = result[0] if isinstance(result, tuple) else result
        return out.transpose(1, 2)

    return attend


@lru_cache(maxsize=1)
def _imported() -> tuple[Callable[..., Any] | None, str]:
    """The package's function, or why there is none."""
    if importlib.util.find_spec("flash_attn") is None:
        return None, "it is not installed"
    try:
        return importlib.import_module("flash_attn.cute").flash_attn_func, ""
    except Exception as error:  # another package of that name, or a compiler that does not fit: there are other kernels
        return None, f"{type(error).__name__}: {error}"[:200]
