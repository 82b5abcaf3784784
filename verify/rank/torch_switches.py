"""The switches of torch and numpy that a call can leave turned: which kernels run, how exact they are.

Each is read and set by name; one that this build of torch does not have, or will not tell, is passed over.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch

Read = Callable[[], Any]
Write = Callable[[Any], Any]


def _attribute(owner: Any, name: str) -> tuple[Read, Write]:
    return (lambda: getattr(owner, name)), (lambda value: setattr(owner, name, value))


def _flush_denormal() -> bool:
    """Whether subnormal numbers are flushed to zero; torch has a setter for this but no getter."""
    return not bool((torch.full((1,), 2.0**-140, dtype=torch.float32, device="cpu") * 1.0).item())


_CUDA, _CUDNN = torch.backends.cuda, torch.backends.cudnn
_PRODUCTS = _CUDA.matmul

#: Each switch: the name under which a user knows it, how it is read, how it is set.
SWITCHES: dict[str, tuple[Read, Write]] = {
    "torch.backends.cuda.enable_flash_sdp": (_CUDA.flash_sdp_enabled, _CUDA.enable_flash_sdp),
    "torch.backends.cuda.enable_mem_efficient_sdp": (_CUDA.mem_efficient_sdp_enabled, _CUDA.enable_mem_efficient_sdp),
    "torch.backends.cuda.enable_math_sdp": (_CUDA.math_sdp_enabled, _CUDA.enable_math_sdp),
    "torch.backends.cuda.enable_cudnn_sdp": (_CUDA.cudnn_sdp_enabled, _CUDA.enable_cudnn_sdp),
    "torch.backends.cuda.matmul.allow_tf32": _attribute(_PRODUCTS, "allow_tf32"),
    "torch.backends.cuda.matmul.fp32_precision": _attribute(_PRODUCTS, "fp32_precision"),
    "torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction": _attribute(
        _PRODUCTS, "allow_fp16_reduced_precision_reduction"
    ),
    "torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction": _attribute(
        _PRODUCTS, "allow_bf16_reduced_precision_reduction"
    ),
    "torch.backends.cuda.matmul.allow_fp16_accumulation": _attribute(_PRODUCTS, "allow_fp16_accumulation"),
    "torch.backends.cudnn.enabled": _attribute(_CUDNN, "enabled"),
    "torch.backends.cudnn.benchmark": _attribute(_CUDNN, "benchmark"),
    "torch.backends.cudnn.deterministic": _attribute(_CUDNN, "deterministic"),
    "torch.backends.cudnn.allow_tf32": _attribute(_CUDNN, "allow_tf32"),
    "torch.backends.mkldnn.enabled": (
        lambda: torch._C._get_mkldnn_enabled(),
        lambda value: torch._C._set_mkldnn_enabled(value),
    ),
    "torch.utils.deterministic.fill_uninitialized_memory": _attribute(
        torch.utils.deterministic, "fill_uninitialized_memory"
    ),
    "torch.set_flush_denormal": (_flush_denormal, torch.set_flush_denormal),
    "torch.autograd.set_detect_anomaly": (
        lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
        lambda value: torch.set_anomaly_enabled(*value),
    ),
    "torch.autograd.set_multithreading_enabled": (
        lambda: torch._C._is_multithreading_enabled(),
        lambda value: torch._C._set_multithreading_enabled(value),
    ),
    "torch.set_warn_always": (torch.is_warn_always_enabled, torch.set_warn_always),
    "numpy.seterr": (lambda: dict(np.geterr()), lambda value: np.seterr(**value)),
}

#: Switches that say the same as ``torch.get_float32_matmul_precision()``.
PRECISION = ("torch.backends.cuda.matmul.allow_tf32", "torch.backends.cuda.matmul.fp32_precision")


def present() -> dict[str, object]:
    """The switches that can be read, as they are now."""
    found: dict[str, object] = {}
    for name, (read, _) in SWITCHES.items():
        with contextlib.suppress(Exception):
            found[name] = read()
    return found


def restore(wanted: dict[str, object]) -> None:
    """Turn back every switch that is not as it was."""
    now = present()
    for name, value in wanted.items():
        if now.get(name) != value:
            with contextlib.suppress(Exception):  # what cannot be put right shows in the next call
                SWITCHES[name][1](value)
