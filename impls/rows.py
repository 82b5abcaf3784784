"""Tensors as rows, one per (position, head), and the packing of selected rows into the parcels that travel."""

import torch
from torch import Tensor


def as_rows(tensor: Tensor) -> Tensor:
    """Return (batch, local_length, heads, dim) as (batch, local_length * heads, dim), a view where strides allow."""
    return tensor.flatten(1, 2)


def pack(key_rows: Tensor, value_rows: Tensor, index: Tensor) -> Tensor:
    """Return the rows at `index` as one contiguous parcel (rows, batch, head_dim + value_dim)."""
    return (
        torch.cat((key_rows.index_select(1, index), value_rows.index_select(1, index)), -1).transpose(0, 1).contiguous()
    )


def new_parcel(rows: int, key_rows: Tensor, value_rows: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a parcel for so many rows of keys and values, its contents undefined."""
    return key_rows.new_empty((rows, len(key_rows), key_rows.shape[-1] + value_rows.shape[-1]), dtype=dtype)


def unpack(parcel: Tensor, head_dim: int) -> tuple[Tensor, Tensor]:
    """Return the keys' and the values' part of a parcel as (batch, rows, dim), views of it."""
    rows = parcel.transpose(0, 1)
    return rows[..., :head_dim], rows[..., head_dim:]
