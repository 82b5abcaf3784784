"""Attention of packed sequences by FlashAttention-2, through torch.

All functions take (batch, rows, heads, dim) in any strides whose last is 1, the sequences one after the other along the
rows; each sample has the same sequences. Keys may have fewer heads than queries.
"""

from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor

from attention_gate.impls.fused.sequences import Sequences

NAME = "FlashAttention-2"
_HALF_TYPES = (torch.bfloat16, torch.float16)
WIDEST = 256

_FORWARD = torch.ops.aten._flash_attention_forward
_BACKWARD = torch.ops.aten._flash_attention_backward


@lru_cache(maxsize=256)
def objection(
    device: torch.device, dtype: torch.dtype, head_dim: int, value_dim: int, softcap: float | None
) -> str | None:
    """Return why torch's FlashAttention-2 does not take these, or None if it does."""
    if device.type != "cuda":
        return f"there is no fused kernel for {device.type}"
    if dtype not in _HALF_TYPES:
        return f"there is no fused kernel for {dtype}"
    if torch.cuda.get_device_capability(device) < (8, 0) or not torch.backends.cuda.is_flash_attention_available():
        return f"{NAME} needs compute capability 8.0"
    if head_dim != value_dim or head_dim % 8 or not 0 < head_dim <= WIDEST:
        return f"{NAME} takes one multiple of 8 up to {WIDEST}, not head_dim {head_dim}, value_dim {value_dim}"
    return f"{NAME} of torch takes no soft cap" if softcap is not None else None


def attend(
    query: Tensor, key: Tensor, value: Tensor, call: Sequences, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Return out (batch, rows, heads, value_dim) in the inputs' dtype and lse (batch, heads, rows) in float32."""
    tensors = tuple(packed(rows, call) for rows in (query, key, value))
    out, lse, *_ = _FORWARD(*tensors, *_lengths(call, query), 0.0, _is_causal(call), False, **_options(call, scale))
    return out.view(query.shape), unpacked_lse(lse, query)


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
    seed = torch.empty(2, dtype=torch.uint64, device=query.device)
    grads = _BACKWARD(
        *(packed(rows, call) for rows in (grad_out, query, key, value, out)),
        packed_lse(lse, call),
        *_lengths(call, query),
        0.0,
        _is_causal(call),
        seed,
        seed,
        **_options(call, scale),
    )
    grad_query, grad_key, grad_value = (
        grad.view(rows.shape) for grad, rows in zip(grads, (query, key, value), strict=True)
    )
    return grad_query, grad_key, grad_value


def packed(rows: Tensor, call: Sequences) -> Tensor:
    """Return rows as kernels of several sequences take them, (all rows, heads, dim); those of one as they are."""
    return rows if len(call.query_lengths) == 1 else rows.reshape(-1, *rows.shape[2:])


def packed_lse(lse: Tensor, call: Sequences) -> Tensor:
    """Return lse (batch, heads, rows) as kernels take it: (heads, all rows) of several sequences."""
    return lse.contiguous() if len(call.query_lengths) == 1 else lse.transpose(0, 1).flatten(1).contiguous()


def unpacked_lse(lse: Tensor, query: Tensor) -> Tensor:
    """Return what a kernel returned as (batch, heads, rows)."""
    batch, rows, heads, _ = query.shape
    return lse if lse.ndim == 3 else lse.view(heads, batch, rows).transpose(0, 1)


def starts(lengths: tuple[int, ...], batch: int, device: torch.device) -> Tensor:
    """Return where each sequence of each sample starts, and where the last ends, int32: kept, not to be written to.

    To copy it anew for each kernel would make the host wait for the device each time.
    """
    stream = torch.cuda.current_stream(device).cuda_stream if device.type == "cuda" else None
    return _starts(lengths, batch, device, stream)


@lru_cache(maxsize=256)
def _starts(lengths: tuple[int, ...], batch: int, device: torch.device, _stream: int | None) -> Tensor:
    """Return it for one stream, on which alone it is read: once it is dropped, what reuses its memory comes later."""
    with torch.inference_mode(False):  # It outlives the pass that asked first, whose mode it must not take on.
        found = list(accumulate(lengths * batch, initial=0))
        return torch.tensor(found, dtype=torch.int32, device=device)


def _lengths(call: Sequences, query: Tensor) -> tuple[Tensor | None, Tensor | None, int, int]:
    longest = max(call.query_lengths), max(call.key_lengths)
    if len(call.query_lengths) == 1:
        return None, None, *longest
    batch, device = query.shape[0], query.device
    return starts(call.query_lengths, batch, device), starts(call.key_lengths, batch, device), *longest


def _is_causal(call: Sequences) -> bool:
    return call.left is None and call.right == 0


def _options(call: Sequences, scale: float) -> dict[str, float | int | None]:
    return {"scale": scale, "window_size_left": call.left, "window_size_right": call.right}
