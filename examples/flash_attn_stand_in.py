"""A stand-in for flash-attn's low-level functions on torch's own operations, for where no wheel of it installs.

    import flash_attn_stand_in

    flash_attn_stand_in.install()  # before the library that imports flash_attn; does nothing where flash-attn is there

It has the signatures of flash-attn 2.7, its causal mask (aligned to the lower right corner), its float32 logarithms.
Scores and sums are float32, as in the kernels. Like them it takes half types only: libraries rely on it where they turn
results to float32 and expect a copy. Windows are those of flash-attn: ends included, -1 is no bound, aligned like the
causal mask. Dropout, soft caps and ALiBi are refused.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

import torch
from torch import Tensor

VERSION = "2.7.4"


def install() -> None:
    """Register the stand-in as ``flash_attn``, unless the real one can be imported."""
    if "flash_attn" in sys.modules or importlib.util.find_spec("flash_attn") is not None:
        return
    names = ("_flash_attn_forward", "_flash_attn_backward", "_flash_attn_varlen_forward", "_flash_attn_varlen_backward")
    package, interface = _module("flash_attn"), _module("flash_attn.flash_attn_interface")
    for name in names:
        setattr(interface, name, globals()[name])
    interface.flash_attn_func = package.flash_attn_func = flash_attn_func
    interface.flash_attn_varlen_func = package.flash_attn_varlen_func = None
    package.flash_attn_interface = interface
    package.__version__ = VERSION
    package.__path__ = []


def _module(name: str) -> Any:
    module = types.ModuleType(name, "A stand-in on torch's own operations.")
    module.__spec__ = importlib.machinery.ModuleSpec(name, None)
    sys.modules[name] = module
    return module


def _flash_attn_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    return_softmax: bool = False,
) -> tuple[Tensor, Tensor, None, None]:
    """(out, lse, None, None) of (batch, rows, heads, dim) tensors; lse (batch, heads, rows), float32."""
    _refuse(dropout_p, softcap, alibi_slopes)
    scores = _scores(q, k, softmax_scale, causal, (window_size_left, window_size_right))
    values = _heads_first(v, q.shape[2])
    lse = scores.logsumexp(-1)
    weights = (scores - lse.unsqueeze(-1)).exp()
    weights = weights.nan_to_num(0.0) if scores.isneginf().all(-1).any() else weights
    out = (weights.to(v.dtype).float() @ values).transpose(1, 2).to(q.dtype).contiguous()
    # The kernels give +inf for a row that sees nothing.
    return out, lse.masked_fill(lse.isneginf(), float("inf")), None, None


def _flash_attn_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    rng_state: Tensor | None = None,
) -> Tensor:
    """Write the gradients into dq, dk and dv, as the kernels do, in their dtype; returns D."""
    _refuse(dropout_p, softcap, alibi_slopes)
    heads, groups = q.shape[2], q.shape[2] // k.shape[2]
    scores = _scores(q, k, softmax_scale, causal, (window_size_left, window_size_right))
    weights = (scores - softmax_lse.float().unsqueeze(-1)).exp()
    grad_out = dout.float().transpose(1, 2)
    delta = (grad_out * out.float().transpose(1, 2)).sum(-1)
    grad_scores = weights * (grad_out @ _heads_first(v, heads).transpose(-1, -2) - delta.unsqueeze(-1)) * softmax_scale
    for target, value, shared in (
        (dq, grad_scores @ _heads_first(k, heads), 1),
        (dk, grad_scores.transpose(-1, -2) @ q.float().transpose(1, 2), groups),
        (dv, weights.transpose(-1, -2) @ grad_out, groups),
    ):
        if target is not None:
            target.copy_(value.unflatten(1, (-1, shared)).sum(2).transpose(1, 2))
    return delta


def _flash_attn_varlen_forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    return_softmax: bool = False,
) -> tuple[Tensor, Tensor, None, None]:
    """The same for sequences packed as (rows, heads, dim); lse (heads, rows)."""
    options = (dropout_p, softmax_scale, causal, window_size_left, window_size_right, softcap, alibi_slopes)
    parts = [
        _flash_attn_forward(q[rows][None], k[keys][None], v[keys][None], *options)
        for rows, keys in _sequences(cu_seqlens_q, cu_seqlens_k)
    ]
    return torch.cat([part[0][0] for part in parts]), torch.cat([part[1][0] for part in parts], dim=1), None, None


def _flash_attn_varlen_backward(
    dout: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    softmax_lse: Tensor,
    dq: Tensor | None,
    dk: Tensor | None,
    dv: Tensor | None,
    cu_seqlens_q: Tensor,
    cu_seqlens_k: Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float,
    softmax_scale: float,
    causal: bool,
    window_size_left: int = -1,
    window_size_right: int = -1,
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    rng_state: Tensor | None = None,
) -> Tensor:
    """The same for sequences packed as (rows, heads, dim)."""
    options = (dropout_p, softmax_scale, causal, window_size_left, window_size_right, softcap, alibi_slopes)
    for rows, keys in _sequences(cu_seqlens_q, cu_seqlens_k):
        parts = [t[rows][None] for t in (dout, q)] + [t[keys][None] for t in (k, v)] + [out[rows][None]]
        grads = [None if t is None else t[which][None] for t, which in ((dq, rows), (dk, keys), (dv, keys))]
        _flash_attn_backward(*parts, softmax_lse[:, rows][None], *grads, *options)
    return softmax_lse


def flash_attn_func(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
    window_size: tuple[int, int] = (-1, -1),
    softcap: float = 0.0,
    alibi_slopes: Tensor | None = None,
    deterministic: bool = False,
    return_attn_probs: bool = False,
) -> Tensor:
    """The high-level function, differentiable."""
    _refuse(dropout_p, softcap, alibi_slopes)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    weights = _scores(q, k, scale, causal, window_size).softmax(-1)
    return (weights @ _heads_first(v, q.shape[2])).transpose(1, 2).to(q.dtype)


def _scores(q: Tensor, k: Tensor, scale: float, causal: bool, window: tuple[int, int]) -> Tensor:
    if q.dtype not in (torch.float16, torch.bfloat16):
        raise TypeError(f"flash-attn takes float16 and bfloat16, not {q.dtype}")
    scores = q.float().transpose(1, 2) @ _heads_first(k, q.shape[2]).transpose(-1, -2) * scale
    rows, keys = scores.shape[-2:]
    left, right = window[0], 0 if causal else window[1]
    ahead = torch.arange(keys, device=q.device) - (torch.arange(rows, device=q.device)[:, None] + keys - rows)
    if left >= 0:
        scores = scores.masked_fill(ahead < -left, float("-inf"))
    if right >= 0:
        scores = scores.masked_fill(ahead > right, float("-inf"))
    return scores


def _heads_first(x: Tensor, heads: int) -> Tensor:
    """(batch, heads, rows, dim) in float32, each key head repeated for the query heads that read it."""
    return x.float().transpose(1, 2).repeat_interleave(heads // x.shape[2], dim=1)


def _sequences(cu_seqlens_q: Tensor, cu_seqlens_k: Tensor) -> list[tuple[slice, slice]]:
    q, k = cu_seqlens_q.tolist(), cu_seqlens_k.tolist()
    return [(slice(q[i], q[i + 1]), slice(k[i], k[i + 1])) for i in range(len(q) - 1)]


def _refuse(dropout_p: float, softcap: float, alibi_slopes: Tensor | None) -> None:
    if dropout_p or softcap or alibi_slopes is not None:
        raise NotImplementedError("the stand-in for flash-attn knows no dropout, soft cap or ALiBi")
