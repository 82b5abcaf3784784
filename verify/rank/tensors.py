"""The same values behind other strides, and the values of a tensor as numpy holds them."""

from __future__ import annotations

import numpy as np
import torch


def with_strides(tensor: torch.Tensor, buffers: str) -> torch.Tensor:
    """The same values behind other strides."""
    if buffers == "heads-first":  # (batch, heads, rows, dim) in memory, as many models keep it
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    if buffers == "sliced":  # every second element of a wider buffer, the gaps filled with nonsense
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7.25, dtype=tensor.dtype, device=tensor.device)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if buffers == "packed":  # one part of a wider buffer, as query, key and value of one projection are
        wide = torch.full((*tensor.shape[:-1], 3 + tensor.shape[-1]), 7.25, dtype=tensor.dtype, device=tensor.device)
        wide[..., 3:] = tensor
        return wide[..., 3:]
    return tensor


def in_form(tensor: torch.Tensor, form: str) -> torch.Tensor:
    """The upstream gradient in another form; an expanded one is a single number, as that of ``out.sum()`` is."""
    if form == "expanded":
        return tensor.reshape(-1)[:1].expand(tensor.numel()).view(tensor.shape) if tensor.numel() else tensor
    if form == "transposed":
        return tensor.transpose(1, 3).contiguous().transpose(1, 3)
    return with_strides(tensor, form)


def values_of(tensor: torch.Tensor) -> np.ndarray | None:
    """The values as numpy holds them exactly: bfloat16 becomes float32. None of a tensor that has no values."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return None  # its facts tell
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy().copy()
