"""Attention of one dense batch by the kernels of flash-attn-4, where that package is installed and right on this GPU.

All functions take (batch, heads, rows, dim) in any strides whose last is 1. Keys may have fewer heads than queries.
Under causality query t sees the keys up to t, of as many keys as queries.

Kernels are compiled at their first call. One is used only if it computes a small problem as plain products do, which is
tried once for each device, dtype, head_dim, value_dim, mask and grouping: this package has returned zeros on an
architecture, silently (TransformerEngine#3528).
"""

import importlib
import importlib.metadata
import importlib.util
import logging
import time
import warnings
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attention_gate.impls.fused import plain_products
from attention_gate.impls.fused.capturing import is_captured

PACKAGE = "flash-attn-4"
_HALF_TYPES = (torch.bfloat16, torch.float16)
_NARROWEST, WIDEST = 32, 128  # 4.0.0b36 errs at 8 and 16, and has no backward pass of grouped heads for unequal ones

# Floating-point operations of a forward pass from which on a kernel runs longer than the host needs to begin it: twice
# as long as for cuDNN's. On the GPU these kernels are faster at nearly any size (benchmarks/kernel_speed.py), and a
# captured pass does not wait for the host.
least_operations_forward = 2e11
least_operations_backward = 5e10

_log = logging.getLogger(__name__)


def is_installed() -> bool:
    """Return whether the package is there, without importing it."""
    return importlib.util.find_spec("flash_attn") is not None and _version() is not None


@lru_cache(maxsize=1)
def _version() -> str | None:
    try:
        return importlib.metadata.version(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=256)
def objection(device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int) -> str | None:
    """Return why the package does not take these, or None if it does as far as is known without a kernel."""
    if not is_installed():
        return f"{PACKAGE} is not installed"
    if device.type != "cuda" or dtype not in _HALF_TYPES:
        return f"{PACKAGE} has no kernel for {dtype} on {device.type}"
    if torch.cuda.get_device_capability(device)[0] not in (9, 10, 11):
        return f"{PACKAGE} is used on compute capability 9.0 to 11"
    if head_dim != value_dim or head_dim % 8 or not _NARROWEST <= head_dim <= WIDEST:
        return (
            f"{PACKAGE} is used where head_dim and value_dim are one multiple of 8 from {_NARROWEST} to {WIDEST}, "
            f"not {head_dim} and {value_dim}"
        )
    return None


def refusal(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> str | None:
    """Return why these kernels are not used for tensors like these, or None if they are: they have been tried."""
    head_dim, value_dim = query.shape[-1], value.shape[-1]
    if reason := objection(query.device, query.dtype, head_dim, value_dim):
        return reason
    like = _Like(query.device, query.dtype, head_dim, value_dim, is_causal, query.shape[1] // key.shape[1])
    if like not in _faults:
        if is_captured():
            return f"{PACKAGE} has not been tried before this capture"
        _faults[like] = _fault(like)
    return _faults[like]


def is_worthwhile(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, is_backward: bool) -> bool:
    """Return whether these kernels are faster than cuDNN's for a problem of this size."""
    batch, heads, rows, head_dim = query.shape
    operations = 2.0 * batch * heads * rows * key.shape[2] * (head_dim + value.shape[-1]) / (1 + is_causal)
    return operations >= (least_operations_backward if is_backward else least_operations_forward) or is_captured()


def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Return out (batch, heads, rows, value_dim) in the inputs' dtype and lse (batch, heads, rows) in float32."""
    out, lse, *_ = package()._flash_attn_fwd(
        *(rows.transpose(1, 2) for rows in (query, key, value)), softmax_scale=scale, causal=is_causal, return_lse=True
    )
    return out.transpose(1, 2), lse


def attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value that this batch contributes.

    `out` and `lse` are those of the whole attention, of which these keys may be a part.
    """
    grads = package()._flash_attn_bwd(
        *(rows.transpose(1, 2) for rows in (query, key, value, out, grad_out)),
        lse.contiguous(),
        softmax_scale=scale,
        causal=is_causal,
    )
    grad_query, grad_key, grad_value = (grad.transpose(1, 2) for grad in grads[:3])
    return grad_query, grad_key, grad_value


@lru_cache(maxsize=1)
def package() -> Any:
    """Return the package's module of kernels."""
    # The compiler warns of this for every kernel; callers can do nothing about it.
    warnings.filterwarnings("ignore", message="Argument aux_data .* cannot be converted to a JitArgument")
    return importlib.import_module("flash_attn.cute.interface")


class _Like(NamedTuple):
    """What decides which kernels are compiled, of `times` query heads for each head of keys."""

    device: torch.device
    dtype: torch.dtype
    head_dim: int
    value_dim: int
    is_causal: bool
    times: int


# What is wrong with the kernels for tensors like these, of all that have been tried.
_faults: dict[_Like, str | None] = {}


def _fault(like: _Like) -> str | None:
    """Return what is wrong with the kernels for such tensors on this device, or None if they are right."""
    _, dtype, head_dim, value_dim, is_causal, _ = like
    start = time.perf_counter()
    try:
        error = _largest_error(*like)
        fault = None if error < _TOLERANCE else f"{PACKAGE} {_version()} is wrong here: relative error {error:.2g}"
    except torch.OutOfMemoryError:  # says nothing of the kernels
        raise
    except Exception as error:  # Whatever an optional package raises, there is another kernel.
        fault = f"{PACKAGE} {_version()} does not run here: {type(error).__name__}: {str(error)[:200]}"
    if fault:
        _log.warning("cuDNN's kernels are used: %s", fault)
    else:
        _log.info(
            "%s %s compiled and tried for %s, head_dim %d, value_dim %d%s in %.1f s; it keeps kernels for other "
            "processes if FLASH_ATTENTION_CUTE_DSL_CACHE_ENABLED is 1",
            PACKAGE, _version(), dtype, head_dim, value_dim, ", causal" if is_causal else "",
            time.perf_counter() - start,
        )  # fmt: skip
    return fault


# Of a root mean square, in which correct kernels err by a few roundings of bfloat16, 2^-9 each. NaN is no less.
_TOLERANCE = 0.02


def _largest_error(
    device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int, is_causal: bool, times: int
) -> float:
    """Return the largest relative error of out, lse and gradients in a problem of several tiles, none of them whole.

    Of its keys, which are part of the whole attention, the last rows belong to a longer sequence.
    """
    queries, keys, scale = 328, 328 if is_causal else 456, head_dim**-0.5
    source = torch.Generator(device).manual_seed(0)

    def drawn(rows: int, heads: int, dim: int) -> Tensor:
        wide = torch.randn((2, rows, heads, dim + 8), generator=source, device=device).to(dtype)
        return wide[..., :dim].transpose(1, 2)

    query, grad_out = drawn(queries, 2 * times, head_dim), drawn(queries, 2 * times, value_dim)
    key, value = drawn(keys, 2, head_dim), drawn(keys, 2, value_dim)
    out, lse = attend(query, key, value, is_causal, scale)
    right, right_lse = plain_products.attend(query.float(), key.float(), value.float(), is_causal, scale)
    # As if there were as many keys again, of equal weight and with values of zero.
    whole, whole_lse = (right / 2).to(dtype), right_lse + 0.6931471805599453
    grads = attend_backward(query, key, value, whole, whole_lse, grad_out, is_causal, scale)
    right_grads = plain_products.attend_backward(
        query.float(), key.float(), value.float(), whole.float(), whole_lse, grad_out.float(), is_causal, scale
    )
    pairs = zip((out, lse, *grads), (right, right_lse, *right_grads), strict=True)
    errors = [float((mine.float() - wanted).square().mean() / wanted.square().mean()) ** 0.5 for mine, wanted in pairs]
    return max(errors) if all(error == error for error in errors) else float("nan")
