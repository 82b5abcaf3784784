"""Attention of packed sequences by the fastest kernel that is there and right.

On CUDA flash-attn-4 where it is installed, FlashAttention-2 as torch has it otherwise; elsewhere plain products. All
functions take (batch, rows, heads, dim) in any strides whose last is 1, the sequences one after the other along the
rows; each sample has the same sequences. Keys may have fewer heads than queries.
"""

import logging
import time
from functools import lru_cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from attention_gate.impls.fused import flash_packed, packed_products, torch_packed
from attention_gate.impls.fused.sequences import Sequences

_log = logging.getLogger(__name__)

_MODULES: dict[str, ModuleType] = {flash_packed.NAME: flash_packed, torch_packed.NAME: torch_packed}


def objection(
    backend: str, device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int, softcap: float | None
) -> str | None:
    """Return why no kernels take these, or None if some do as far as is known without a kernel."""
    if backend == "cudnn":
        return "cuDNN's kernels take no documents, windows, soft caps or other numbers of queries"
    if backend == "flash-attn-4":
        return flash_packed.objection(device, dtype, head_dim, value_dim, softcap)
    if flash_packed.objection(device, dtype, head_dim, value_dim, softcap) is None:
        return None
    return torch_packed.objection(device, dtype, head_dim, value_dim, softcap)


def backend_for(
    backend: str, device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int, softcap: float | None
) -> tuple[str, str]:
    """Return whose kernels a call runs on that asks for a backend, and why."""
    if device.type != "cuda":
        return "plain products", f"there is no fused kernel for {device.type}"
    if backend != "auto":
        return backend, "it is chosen"
    if reason := flash_packed.objection(device, dtype, head_dim, value_dim, softcap):
        return torch_packed.NAME, reason
    return flash_packed.NAME, f"it is the fastest; {torch_packed.NAME} serves where a kernel is wrong"


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    call: Sequences,
    scale: float,
    softcap: float | None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Return out (batch, rows, heads, value_dim) in the inputs' dtype, lse (batch, heads, rows) in float32 or more."""
    module = _module(query, key, value, call, softcap, backend)
    found: tuple[Tensor, Tensor] = module.attend(query, key, value, call, scale, softcap)
    return found


def attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    call: Sequences,
    scale: float,
    softcap: float | None,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value by `out` and `lse` (batch, heads, rows) of the whole attention."""
    module = _module(query, key, value, call, softcap, backend)
    grads: tuple[Tensor, Tensor, Tensor] = module.attend_backward(
        query, key, value, out, lse, grad_out, call, scale, softcap
    )
    return grads


def _module(
    query: Tensor, key: Tensor, value: Tensor, call: Sequences, softcap: float | None, backend: str
) -> ModuleType:
    """Return whose kernels take these: the first whose own are right, which is found out at the first call."""
    if not query.is_cuda:
        return packed_products
    given = query.device, query.dtype, query.shape[-1], value.shape[-1], softcap
    form = query.shape[2] // key.shape[2], len(call.query_lengths) > 1, call.left is None, _kind(call.right)
    reasons = []
    for name, module in _MODULES.items():
        if backend not in ("auto", name):
            continue
        reason = module.objection(*given) or _fault(module, *given, *form)
        if reason is None:
            return module
        reasons.append(reason)
    if backend == "auto":  # one rank that raised here would leave the others waiting
        return packed_products
    raise RuntimeError(f"kernels: {backend} is chosen and does not serve: {'; '.join(reasons)}")


def _kind(right: int | None) -> int | None:
    """Return one bound for all that a kernel is compiled alike for: none, 0, and all others."""
    return right if right in (None, 0) else 3


@lru_cache(maxsize=256)
def _fault(
    module: ModuleType,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    value_dim: int,
    softcap: float | None,
    times: int,
    has_several: bool,
    is_unbounded: bool,
    right: int | None,
) -> str | None:
    """Return what is wrong with a module's kernels for calls like these on this device, or None if they are right."""
    start = time.perf_counter()
    queries, keys = ((152, 1, 175), (280, 1, 401)) if has_several else ((328,), (456,))
    call = Sequences((), (), queries, keys, None if is_unbounded else 130, right)
    try:
        error = _largest_error(module, device, dtype, head_dim, value_dim, softcap, times, call)
        fault = None if error < TOLERANCE else f"{module.NAME} is wrong here: relative error {error:.2g}"
    except torch.OutOfMemoryError:  # says nothing of the kernels
        raise
    except Exception as error:  # Whatever an optional package raises, there is another kernel.
        fault = f"{module.NAME} does not run here: {type(error).__name__}: {str(error)[:200]}"
    seconds = time.perf_counter() - start
    _log.log(logging.WARNING if fault else logging.INFO, "%s, tried for %.1f s", fault or module.NAME, seconds)
    return fault


# Of a root mean square, in which correct kernels err by a few roundings of bfloat16, 2^-9 each. NaN is no less.
TOLERANCE = 0.02


def _largest_error(
    module: Any,
    device: torch.device,
    dtype: torch.dtype,
    head_dim: int,
    value_dim: int,
    softcap: float | None,
    times: int,
    call: Sequences,
) -> float:
    """Return the largest relative error of out, lse and gradients in a problem of several tiles, none of them whole."""
    queries, keys, scale = sum(call.query_lengths), sum(call.key_lengths), head_dim**-0.5
    source = torch.Generator(device).manual_seed(0)

    def drawn(rows: int, heads: int, dim: int) -> Tensor:
        return torch.randn((2, rows, heads, dim + 8), generator=source, device=device).to(dtype)[..., :dim]

    query, grad_out = drawn(queries, 2 * times, head_dim), drawn(queries, 2 * times, value_dim)
    key, value = drawn(keys, 2, head_dim), drawn(keys, 2, value_dim)
    out, lse = module.attend(query, key, value, call, scale, softcap)
    wide = query.float(), key.float(), value.float()
    right, right_lse = packed_products.attend(*wide, call, scale, softcap)
    # As if there were as many keys again, of equal weight and with values of zero.
    whole, whole_lse = (right / 2).to(dtype), right_lse + 0.6931471805599453
    grads = module.attend_backward(query, key, value, whole, whole_lse, grad_out, call, scale, softcap)
    right_grads = packed_products.attend_backward(
        *wide, whole.float(), whole_lse, grad_out.float(), call, scale, softcap
    )
    pairs = zip((out, lse, *grads), (right, right_lse, *right_grads), strict=True)
    errors = [float((mine.float() - wanted).square().mean() / wanted.square().mean()) ** 0.5 for mine, wanted in pairs]
    return max(errors) if all(error == error for error in errors) else float("nan")
