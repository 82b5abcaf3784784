"""Attention of one dense batch by the fastest kernel that is there and right: the seam behind which kernels stand.

On CUDA flash-attn-4 where it is installed and the problem is large enough, cuDNN otherwise; elsewhere plain products.
All functions take (batch, heads, rows, dim) in any strides whose last is 1. Keys may have fewer heads than queries.
Under causality query t sees the keys up to t, of as many keys as queries.
"""

from types import ModuleType

import torch
from torch import Tensor

from attention_gate.impls.fused import cudnn_kernels, flash_kernels, plain_products
from attention_gate.impls.fused.cudnn_kernels import objection

__all__ = ["BACKENDS", "attend", "attend_backward", "backend_for", "backend_objection", "least_rows", "objection"]

# What a caller may ask for: the fastest of all, or one by its name.
BACKENDS = ("auto", "cudnn", "flash-attn-4")

# Fewer rows are not worth a kernel's plan, which cuDNN makes anew for each shape.
least_rows = 64


def backend_objection(
    backend: str, device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int
) -> str | None:
    """Return why a backend does not take these, or None if it does as far as is known without a kernel."""
    if backend == "flash-attn-4":
        return flash_kernels.objection(device, dtype, head_dim, value_dim)
    return objection(device, dtype, head_dim, value_dim)


def backend_for(
    backend: str, device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int
) -> tuple[str, str]:
    """Return whose kernels a call runs on that asks for a backend, and why."""
    if device.type != "cuda":
        return "plain products", f"there is no fused kernel for {device.type}"
    if backend != "auto":
        return backend, "it is chosen"
    if reason := flash_kernels.objection(device, dtype, head_dim, value_dim):
        return "cudnn", reason
    return "flash-attn-4", "it is the fastest for large problems; cuDNN serves small ones, and where a kernel is wrong"


def attend(
    query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float, backend: str = "auto"
) -> tuple[Tensor, Tensor]:
    """Return out (batch, heads, rows, value_dim) in the inputs' dtype, lse (batch, heads, rows) in float32 or more."""
    module = _module(query, key, value, is_causal, backend, is_backward=False)
    out, lse = module.attend(query, key, value, is_causal, scale)
    return out, lse


def attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    is_causal: bool,
    scale: float,
    backend: str = "auto",
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value that this batch contributes.

    `out` and `lse` are those of the whole attention, of which these keys may be a part.
    """
    module = _module(query, key, value, is_causal, backend, is_backward=True)
    grads: tuple[Tensor, Tensor, Tensor] = module.attend_backward(
        query, key, value, out, lse, grad_out, is_causal, scale
    )
    return grads


def _module(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, backend: str, is_backward: bool) -> ModuleType:
    """Return whose kernels take these."""
    if not query.is_cuda or query.dtype not in (torch.bfloat16, torch.float16):
        return plain_products
    is_asked = backend == "flash-attn-4"
    if not is_asked and (
        backend == "cudnn" or not flash_kernels.is_worthwhile(query, key, value, is_causal, is_backward)
    ):
        return cudnn_kernels
    reason = flash_kernels.refusal(query, key, value, is_causal)
    if reason is None:
        return flash_kernels
    if is_asked:
        raise RuntimeError(f"kernels: flash-attn-4 is chosen and does not serve: {reason}")
    return cudnn_kernels
