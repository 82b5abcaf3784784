"""Attention of packed sequences by the kernels of flash-attn-4.

All functions take (batch, rows, heads, dim) in any strides whose last is 1, the sequences one after the other along the
rows; each sample has the same sequences. Keys may have fewer heads than queries.
"""

from typing import Any

import torch
from torch import Tensor

from attention_gate.impls.fused import flash_kernels
from attention_gate.impls.fused.sequences import Sequences
from attention_gate.impls.fused.torch_packed import packed, packed_lse, starts, unpacked_lse

NAME = flash_kernels.PACKAGE


def objection(
    device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int, softcap: float | None
) -> str | None:
    """Return why the package does not take these, or None if it does as far as is known without a kernel."""
    return flash_kernels.objection(device, dtype, head_dim, value_dim)


def attend(
    query: Tensor, key: Tensor, value: Tensor, call: Sequences, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Return out (batch, rows, heads, value_dim) in the inputs' dtype and lse (batch, heads, rows) in float32."""
    out, lse, *_ = flash_kernels.package()._flash_attn_fwd(
        *(packed(rows, call) for rows in (query, key, value)),
        softcap=softcap,
        return_lse=True,
        **_options(call, query, scale),
    )
    return out.view(*query.shape[:3], value.shape[-1]), unpacked_lse(lse, query)


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
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value by `out` and `lse` of the whole attention."""
    grads = flash_kernels.package()._flash_attn_bwd(
        *(packed(rows, call) for rows in (query, key, value, out, grad_out)),
        packed_lse(lse, call),
        softcap=softcap or 0.0,
        **_options(call, query, scale),
    )
    grad_query, grad_key, grad_value = (
        grad.view(rows.shape) for grad, rows in zip(grads[:3], (query, key, value), strict=True)
    )
    return grad_query, grad_key, grad_value


def _options(call: Sequences, query: Tensor, scale: float) -> dict[str, Any]:
    options: dict[str, Any] = {
        "softmax_scale": scale,
        "causal": call.left is None and call.right == 0,
        "window_size_left": call.left,
        "window_size_right": call.right,
    }
    if len(call.query_lengths) > 1:
        batch, device = query.shape[0], query.device
        options |= {
            "cu_seqlens_q": starts(call.query_lengths, batch, device),
            "cu_seqlens_k": starts(call.key_lengths, batch, device),
            "max_seqlen_q": max(call.query_lengths),
            "max_seqlen_k": max(call.key_lengths),
        }
    return options
