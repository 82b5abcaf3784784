"""What several branches or blocks contribute to the same rows, put together in one pass.

Attention to disjoint sets of keys is merged by softmax denominators, gradients are added; both in the accumulation
dtype, whatever the pieces are kept in. On CUDA a Triton kernel reads each piece once and writes each result once; the
eager versions are for other devices and for small tensors, and say what the kernels must do.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from attention_gate.impls.fused.grid import Piece, grid

# Smaller tensors are not worth a kernel of their own, which is compiled for each set of strides.
least_elements = 1 << 20


def merge(out: Tensor, lse: Tensor, pieces: Sequence[Piece], onto: bool = False) -> None:
    """Write the attention that the pieces make up to `out` and `lse`.

    `out` is (batch, rows, heads, value_dim), `lse` (batch, rows, heads). A row in no piece gets 0 and -inf. With `onto`
    they hold attention already, to which that of the pieces comes, and a row in no piece stays as it is.
    """
    if _has_kernels(out):
        from attention_gate.impls.fused.triton_kernels import merge as merge_at_once

        merge_at_once(out, lse, pieces, onto)
        return
    if onto:
        pieces = [base(out, lse), *pieces]
    dtype = lse.dtype
    peak = torch.full(lse.shape, float("-inf"), dtype=dtype, device=lse.device)
    for piece in pieces:
        assert piece.lse is not None
        _apply(peak, piece, piece.lse, torch.maximum)
    shift = peak.masked_fill(peak.isneginf(), 0.0)
    total, weight = torch.zeros(out.shape, dtype=dtype, device=out.device), torch.zeros_like(shift)
    for piece in pieces:
        assert piece.lse is not None
        index = _where(piece, shift)
        weights = (piece.lse.permute(0, 4, 1, 2, 3).to(dtype) - shift[index]).exp()
        rows = piece.rows.permute(0, 4, 1, 2, 3, 5).to(dtype)
        # What weighs nothing counts nothing, also where it is not a number.
        total[index] += (weights.unsqueeze(-1) * rows).masked_fill((weights == 0).unsqueeze(-1), 0.0)
        weight[index] += weights
    out.copy_((total / weight.unsqueeze(-1)).masked_fill((weight == 0).unsqueeze(-1), 0.0))
    lse.copy_(shift + weight.log())


def add(total: Tensor, pieces: Sequence[Piece], onto: bool = False) -> None:
    """Write the sum of the pieces to `total` (batch, rows, heads, dim), 0 where none is; with `onto` add it to that."""
    if _has_kernels(total):
        from attention_gate.impls.fused.triton_kernels import add as add_at_once

        add_at_once(total, pieces, onto)
        return
    if onto:
        pieces = [base(total), *pieces]
    dtype = torch.promote_types(total.dtype, torch.float32)
    result = torch.zeros(total.shape, dtype=dtype, device=total.device)
    for piece in pieces:
        result[_where(piece, result)] += piece.rows.permute(0, 4, 1, 2, 3, 5).to(dtype)
    total.copy_(result)


def base(rows: Tensor, lse: Tensor | None = None) -> Piece:
    """Return a tensor (batch, rows, heads, dim), and its lse without dim, as a piece of itself."""
    length = rows.shape[1]
    part = grid(lse.unsqueeze(-1), length, 1).squeeze(-1) if lse is not None else None
    return Piece(grid(rows, length, 1), part, length, 1, 1)


def _apply(target: Tensor, piece: Piece, values: Tensor, operation: object) -> None:
    index = _where(piece, target)
    target[index] = operation(target[index], values.permute(0, 4, 1, 2, 3).to(target.dtype))  # type: ignore[operator]


def _where(piece: Piece, target: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return batch, row and head of each element of the piece, in the order (batch, row, segment, offset, head)."""
    batch, segments, offsets, heads, count = piece.rows.shape[:5]
    b0, s0, o0, j0 = piece.origin

    def along(extent: int, first: int, axis: int) -> Tensor:
        return torch.arange(first, first + extent, device=target.device).view(
            [extent if place == axis else 1 for place in range(5)]
        )

    b, t, s = along(batch, b0, 0), along(count, 0, 1), along(segments, s0, 2)
    o, j = along(offsets, o0, 3), along(heads, j0, 4)
    return b, piece.start + s * piece.length + o + t * piece.rate, o + j * piece.modulus


def _has_kernels(tensor: Tensor) -> bool:
    return tensor.is_cuda and tensor.numel() >= least_elements and tensor.dtype in (torch.bfloat16, torch.float16)
