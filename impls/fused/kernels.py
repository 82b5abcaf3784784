"""Attention of one dense batch by the kernel of torch that is fastest: cuDNN's on CUDA, plain products elsewhere.

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
_WIDEST = 128

# Whether cuDNN's lse has a fourth axis, of length 1, which its backward pass wants as well: torch's versions differ.
_has_axis = True

# Fewer rows are not worth a kernel's plan, which cuDNN makes anew for each shape.
least_rows = 64


@lru_cache(maxsize=256)
def objection(device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int) -> str | None:
    """Return why no fused kernel takes these, or None if one does."""
    if device.type != "cuda":
        return f"there is no fused kernel for {device.type}"
    if dtype not in _HALF_TYPES:
        return f"there is no fused kernel for {dtype}"
    if torch.cuda.get_device_capability(device) < (8, 0) or not torch.backends.cudnn.is_available():
        return "cuDNN's attention needs compute capability 8.0"
    if os.environ.get("TORCH_CUDNN_SDPA_AVOID_RECOMPILE") == "1":
        return "TORCH_CUDNN_SDPA_AVOID_RECOMPILE is set, by which cuDNN's graphs are kept in another way"
    if head_dim % 8 or value_dim % 8 or not 0 < head_dim <= _WIDEST or not 0 < value_dim <= _WIDEST:
        return f"the fused kernel takes multiples of 8 up to {_WIDEST}, not head_dim {head_dim}, value_dim {value_dim}"
    return None


def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Return out (batch, heads, rows, value_dim) in the inputs' dtype, lse (batch, heads, rows) in float32 or more."""
    if query.is_cuda and query.dtype in _HALF_TYPES:
        global _has_axis
        out, lse, *_ = _CUDNN(query, key, value, None, True, 0.0, is_causal, False, scale=scale)
        _has_axis = lse.ndim == 4
        return out, lse.view(out.shape[:3])
    return _attend(query, key, value, is_causal, scale)


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
    if query.is_cuda and query.dtype in _HALF_TYPES:
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
    return _attend_backward(query, key, value, out, lse, grad_out, is_causal, scale)


def _arrangement(*tensors: Tensor) -> int:
    """Return a number that stands for the strides of these, to be told as the length of the queries.

    Torch keeps cuDNN's graphs by the shapes and strides of query, key and value, and by lengths, which it does not
    look at otherwise. A graph depends on the strides of `out`, `lse` and `grad_out` as well: one that was made for
    others, by this or by any other attention of the process, would read them in the wrong order.
    """
    return -1 - hash(tuple(tensor.stride() for tensor in tensors)) % (1 << 62)


def _attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    dtype = torch.promote_types(query.dtype, torch.float32)
    keys, values = (_for_each_head(rows.to(dtype), query.shape[1]) for rows in (key, value))
    scores = _scores(query.to(dtype), keys, is_causal, scale)
    lse = torch.logsumexp(scores, -1)
    shift = lse.masked_fill(lse.isneginf(), 0.0)
    return ((scores - shift.unsqueeze(-1)).exp() @ values).to(query.dtype), lse


def _attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    dtype = torch.promote_types(query.dtype, torch.float32)
    queries, results, grads = query.to(dtype), out.to(dtype), grad_out.to(dtype)
    keys, values = (_for_each_head(rows.to(dtype), query.shape[1]) for rows in (key, value))
    shift = lse.masked_fill(lse.isneginf(), 0.0)
    probabilities = (_scores(queries, keys, is_causal, scale) - shift.unsqueeze(-1)).exp()
    delta = (grads * results).sum(-1, keepdim=True)
    grad_scores = probabilities * (grads @ values.mT - delta) * scale
    grad_key, grad_value = grad_scores.mT @ queries, probabilities.mT @ grads
    per_key_head = (key.shape[1], query.shape[1] // key.shape[1])
    grad_key, grad_value = (grad.unflatten(1, per_key_head).sum(2) for grad in (grad_key, grad_value))
    return (grad_scores @ keys).to(query.dtype), grad_key.to(key.dtype), grad_value.to(value.dtype)


def _scores(query: Tensor, key: Tensor, is_causal: bool, scale: float) -> Tensor:
    scores = (query * scale) @ key.mT
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
        scores.masked_fill_(later, float("-inf"))
    return scores


def _for_each_head(rows: Tensor, heads: int) -> Tensor:
    return rows.repeat_interleave(heads // rows.shape[1], 1)
