"""The attention kernels that can be imported here, by name: what an implementation could use at best."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate
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


def sequence_kernels(
    device: torch.device, window: tuple[int | None, int | None] | None, lengths: tuple[int, ...] | None
) -> dict[str, Kernel]:
    """All that are importable and take packed documents of these lengths, or a window (left, right), of one sample."""
    left, right = window or (None, None)
    if device.type != "cuda":
        return {"plain products": _masked(left, right, lengths)}
    found = {"torch's FlashAttention-2": _torch_sequences(left, right, lengths)}
    flash = _flash_attn_4_sequences(left, right, lengths)
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


def _masked(left: int | None, right: int | None, lengths: tuple[int, ...] | None) -> Kernel:
    def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
        rows = torch.arange(query.shape[2])
        ahead = rows - rows.unsqueeze(1)
        seen = ahead <= (0 if is_causal else len(rows) if right is None else right)
        if left is not None:
            seen &= ahead >= -left
        if lengths is not None:
            document = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths))
            seen &= document == document.unsqueeze(1)
        with sdpa_kernel(SDPBackend.MATH):
            return F.scaled_dot_product_attention(query, key, value, attn_mask=seen)

    return attend


def _torch_sequences(left: int | None, right: int | None, lengths: tuple[int, ...] | None) -> Kernel:
    def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
        rows, starts, longest = _rows((query, key, value), lengths)
        out = torch.ops.aten._flash_attention_forward(
            *rows, starts, starts, longest, longest, 0.0, is_causal and left is None, False,
            window_size_left=left, window_size_right=0 if is_causal else right,
        )[0]  # fmt: skip
        return out.reshape(query.transpose(1, 2).shape).transpose(1, 2)

    return attend


def _flash_attn_4_sequences(left: int | None, right: int | None, lengths: tuple[int, ...] | None) -> Kernel | None:
    if _imported()[0] is None:
        return None
    package = importlib.import_module("flash_attn.cute")

    def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool) -> Tensor:
        rows, starts, longest = _rows((query, key, value), lengths)
        options: dict[str, Any] = {"causal": is_causal, "window_size": (left, 0 if is_causal else right)}
        function = package.flash_attn_func
        if starts is not None:
            function = package.flash_attn_varlen_func
            options |= {"cu_seqlens_q": starts, "cu_seqlens_k": starts}
            options |= {"max_seqlen_q": longest, "max_seqlen_k": longest}
        result = function(*rows, **options)
        out: Tensor = result[0] if isinstance(result, tuple) else result
        return out.reshape(query.transpose(1, 2).shape).transpose(1, 2)

    return attend


def _rows(tensors: tuple[Tensor, ...], lengths: tuple[int, ...] | None) -> tuple[list[Tensor], Tensor | None, int]:
    """Tensors (1, heads, rows, dim) as kernels take them, rows first, where each document starts, and the longest."""
    rows = [tensor.transpose(1, 2) for tensor in tensors]
    if lengths is None:
        return rows, None, rows[0].shape[1]
    return [each[0] for each in rows], _starts(lengths, rows[0].device), max(lengths)


@lru_cache(maxsize=8)
def _starts(lengths: tuple[int, ...], device: torch.device) -> Tensor:
    """Where each document starts, and where the last ends: copied once, as the host waits for that."""
    return torch.tensor([0, *accumulate(lengths)], dtype=torch.int32, device=device)


@lru_cache(maxsize=1)
def _imported() -> tuple[Callable[..., Any] | None, str]:
    """The package's function, or why there is none."""
    if importlib.util.find_spec("flash_attn") is None:
        return None, "it is not installed"
    try:
        return importlib.import_module("flash_attn.cute").flash_attn_func, ""
    except Exception as error:  # another package of that name, or a compiler that does not fit: there are other kernels
        return None, f"{type(error).__name__}: {error}"[:200]
