"""Attention of one dense batch by cuDNN's kernels, through torch.

All functions take (batch, heads, rows, dim) in any strides whose last is 1. Keys may have fewer heads than queries.
Under causality query t sees the keys up to t, of as many keys as queries.
"""

import os
from functools import lru_cache

import torch
from torch import Tensor

_HALF_TYPES = (torch.bfloat16, torch.float16)
_CUDNN = torch.ops.aten._scaled_dot_product_cudnn_attention
_CUDNN_BACKWARD = torch.ops.aten._scaled_dot_product_cudnn_attention_backward
WIDEST = 128

# Whether cuDNN's lse has a fourth axis, of length 1, which its backward pass wants as well: torch's versions differ.
_has_axis = True

# How many keys cuDNN takes at a time. Where half a tile is left over, cuDNN 9.19 counts the keys that are not there as
# keys of score 0 in the gradient of query: a row is NaN if exp(-lse) overflows the dtype (docs/findings.md, 32). Such
# keys are given in two parts. It masks the missing keys under causality, and where another number is left over.
_TILE = 128


@lru_cache(maxsize=256)
def objection(device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int) -> str | None:
    """Return why cuDNN does not take these, or None if it does."""
    if device.type != "cuda":
        return f"there is no fused kernel for {device.type}"
    if dtype not in _HALF_TYPES:
        return f"there is no fused kernel for {dtype}"
    if torch.cuda.get_device_capability(device) < (8, 0) or not torch.backends.cudnn.is_available():
        return "cuDNN's attention needs compute capability 8.0"
    if os.environ.get("TORCH_CUDNN_SDPA_AVOID_RECOMPILE") == "1":
        return "TORCH_CUDNN_SDPA_AVOID_RECOMPILE is set, by which cuDNN's graphs are kept in another way"
    if head_dim % 8 or value_dim % 8 or not 0 < head_dim <= WIDEST or not 0 < value_dim <= WIDEST:
        return f"the fused kernel takes multiples of 8 up to {WIDEST}, not head_dim {head_dim}, value_dim {value_dim}"
    return None


def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Return out (batch, heads, rows, value_dim) in the inputs' dtype and lse (batch, heads, rows) in float32."""
    global _has_axis
    out, lse, *_ = _CUDNN(query, key, value, None, True, 0.0, is_causal, False, scale=scale)
    _has_axis = lse.ndim == 4
    return out, lse.view(out.shape[:3])


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
    """Return the gradients of query, key and value that this batch contributes, each in the order of its strides.

    `out` and `lse` are those of the whole attention, of which these keys may be a part.
    """
    if not is_causal and key.shape[2] % _TILE == _TILE // 2:
        first = key.shape[2] - _TILE // 4
        grads = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
        total = torch.zeros(query.shape, dtype=torch.float32, device=query.device)
        for keys in (slice(0, first), slice(first, None)):
            seen = key[:, :, keys], value[:, :, keys]
            by_query, *by_keys = attend_backward(query, *seen, out, lse, grad_out, False, scale)
            total += by_query
            for grad, part in zip(grads[1:], by_keys, strict=True):
                grad[:, :, keys] = part
        grads[0].copy_(total)
        return grads
    seed = torch.empty(0, dtype=torch.int64, device=query.device)
    lse = lse.contiguous()  # Before Hopper, kernels take it to be, whatever its strides.
    lengths = _arrangement(out, lse, grad_out), key.shape[2]
    return _CUDNN_BACKWARD(
        grad_out,
        query,
        key,
        value,
        out,
        lse.unsqueeze(-1) if _has_axis else lse,
        seed,
        seed,
        None,
        None,
        None,
        *lengths,
        0.0,
        is_causal,
        scale=scale,
    )


def _arrangement(*tensors: Tensor) -> int:
    """Return a number for the strides of these, which is passed as the length of the queries.

    Torch keeps cuDNN's graphs by the shapes and strides of query, key and value, and by lengths, which it does not
    look at otherwise. A graph depends on the strides of `out`, `lse` and `grad_out` as well: one that was made for
    others, by this or by any other attention of the process, would read them in the wrong order.
    """
    return -1 - hash(tuple(tensor.stride() for tensor in tensors)) % (1 << 62)
