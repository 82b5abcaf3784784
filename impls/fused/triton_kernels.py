# mypy: disable-error-code="no-untyped-def, import-not-found, import-untyped, no-untyped-call"
"""Merging and adding pieces in Triton: each element of each piece is read once, each result written once.

Where the pieces lie is known when a kernel is compiled: divisions by lengths and rates become shifts, and loads are as
wide as strides allow. A program serves some (row, head) pairs, heads fastest, and passes over pieces that have none of
its rows.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from attention_gate.impls.fused.grid import Piece

_PAIRS = 32


@triton.jit
def _place(batch, row, head, METAS: tl.constexpr, K: tl.constexpr):
    """Return where in a piece the (row, head) pairs lie, whether they do, and the place of their lse."""
    # META: start, length, rate, modulus, origin (4), shape (5), strides of rows (5), strides of lse (5).
    META: tl.constexpr = METAS[K]
    x = row - META[0]
    segment, within = x // META[1], x % META[1]
    offset, column = head % META[3], head // META[3]
    ahead = within - offset
    count = ahead // META[2]
    b, s, o, j = batch - META[4], segment - META[5], offset - META[6], column - META[7]
    is_in = (x >= 0) & (ahead >= 0) & (ahead % META[2] == 0) & (count < META[12])
    is_in = is_in & (b >= 0) & (b < META[8]) & (s >= 0) & (s < META[9])
    is_in = is_in & (o >= 0) & (o < META[10]) & (j >= 0) & (j < META[11])
    place = b * META[13] + s * META[14] + o * META[15] + j * META[16] + count * META[17]
    lse_place = b * META[18] + s * META[19] + o * META[20] + j * META[21] + count * META[22]
    return place, is_in, lse_place


@triton.jit
def _has_any(first, last, METAS: tl.constexpr, K: tl.constexpr):
    """Return whether rows `first` to `last`, if they are of one batch, may be in a piece."""
    META: tl.constexpr = METAS[K]
    from_start = META[0] + META[5] * META[1]
    return (last >= from_start) & (first < from_start + META[9] * META[1])


@triton.jit
def _pairs(pairs, heads: tl.constexpr, rows: tl.constexpr, PAIRS: tl.constexpr, WIDE: tl.constexpr):
    """Return the pairs of this program, their batch, row and head, and the first and last row."""
    start = tl.program_id(0) * PAIRS
    pair = start + tl.arange(0, PAIRS)
    head, row, batch = pair % heads, (pair // heads) % rows, pair // (heads * rows)
    stop = start + PAIRS - 1
    first, last = (start // heads) % rows, (stop // heads) % rows
    if start // (heads * rows) != stop // (heads * rows):
        first, last = first * 0, last * 0 + rows
    if WIDE:
        row, head, batch = row.to(tl.int64), head.to(tl.int64), batch.to(tl.int64)
    return pair < pairs, batch, row, head, first, last


@triton.jit
def _merge(
    ROWS, LSES, out, lse, pairs, heads: tl.constexpr, rows: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    PAIRS: tl.constexpr, METAS: tl.constexpr, OUT: tl.constexpr, COUNT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    is_pair, batch, row, head, first, last = _pairs(pairs, heads, rows, PAIRS, WIDE)
    lane = tl.arange(0, BLOCK)
    peak = tl.full((PAIRS,), float("-inf"), tl.float32)
    weight = tl.zeros((PAIRS,), tl.float32)
    total = tl.zeros((PAIRS, BLOCK), tl.float32)
    for k in tl.static_range(COUNT):
        if _has_any(first, last, METAS, k):
            place, is_in, lse_place = _place(batch, row, head, METAS, k)
            is_in = is_in & is_pair
            values = tl.load(
                ROWS[k] + place[:, None] + lane[None, :], mask=is_in[:, None] & (lane < DIM)[None, :], other=0.0
            ).to(tl.float32)
            denominator = tl.load(LSES[k] + lse_place, mask=is_in, other=float("-inf"))
            # Not a number stays one; where nothing has any weight yet the shift must be finite.
            higher = tl.where((peak > denominator) | (peak != peak), peak, denominator)
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            before, now = tl.exp(peak - shift), tl.exp(denominator - shift)
            # What weighs nothing counts nothing, also where it is not a number.
            total = total * before[:, None] + tl.where((now == 0.0)[:, None], 0.0, now[:, None] * values)
            weight = weight * before + now
            peak = higher
    result = tl.where((weight == 0.0)[:, None], 0.0, total / weight[:, None])
    place = batch * OUT[0] + row * OUT[1] + head * OUT[2]
    tl.store(
        out + place[:, None] + lane[None, :], result.to(out.dtype.element_ty),
        mask=is_pair[:, None] & (lane < DIM)[None, :],
    )  # fmt: skip
    shift = tl.where(peak == float("-inf"), 0.0, peak)
    tl.store(lse + batch * OUT[3] + row * OUT[4] + head * OUT[5], shift + tl.log(weight), mask=is_pair)


@triton.jit
def _add(
    ROWS, out, pairs, heads: tl.constexpr, rows: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    PAIRS: tl.constexpr, METAS: tl.constexpr, OUT: tl.constexpr, COUNT: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    is_pair, batch, row, head, first, last = _pairs(pairs, heads, rows, PAIRS, WIDE)
    lane = tl.arange(0, BLOCK)
    total = tl.zeros((PAIRS, BLOCK), tl.float32)
    for k in tl.static_range(COUNT):
        if _has_any(first, last, METAS, k):
            place, is_in, _ = _place(batch, row, head, METAS, k)
            mask = (is_in & is_pair)[:, None] & (lane < DIM)[None, :]
            total += tl.load(ROWS[k] + place[:, None] + lane[None, :], mask=mask, other=0.0).to(tl.float32)
    place = batch * OUT[0] + row * OUT[1] + head * OUT[2]
    tl.store(
        out + place[:, None] + lane[None, :], total.to(out.dtype.element_ty),
        mask=is_pair[:, None] & (lane < DIM)[None, :],
    )  # fmt: skip


def merge(out: Tensor, lse: Tensor, pieces: Sequence[Piece]) -> None:
    """As impls.fused.combine.merge."""
    lses = tuple(piece.lse for piece in pieces)
    strides = (*out.stride()[:3], *lse.stride())
    _launch(_merge, out, pieces, strides, tuple(piece.rows for piece in pieces), lses, out, lse)


def add(total: Tensor, pieces: Sequence[Piece]) -> None:
    """As impls.fused.combine.add."""
    _launch(_add, total, pieces, total.stride()[:3], tuple(piece.rows for piece in pieces), total)


def _launch(kernel, out: Tensor, pieces: Sequence[Piece], strides: tuple[int, ...], *arguments) -> None:
    batch, rows, heads, dim = out.shape
    pairs = batch * rows * heads
    if pairs * dim == 0:
        return
    assert out.stride(-1) == 1
    assert all(piece.rows.stride(-1) == 1 for piece in pieces)
    # Triton works out at every launch what it must compile for; all that matters of it is here.
    metas = tuple(map(_meta, pieces))
    key = (kernel, out.device, out.dtype, batch, rows, heads, dim, strides, metas, _alignments(arguments))
    programs = (-(-pairs // _PAIRS), 1, 1)
    with torch.cuda.device_of(out):
        if found := _compiled.get(key):
            compiled, constants = found
            compiled[programs](*arguments, pairs, *constants)
            return
        is_wide = max(map(_extent, [out, *(piece.rows for piece in pieces)])) >= 1 << 31
        constants = (heads, rows, dim, triton.next_power_of_2(dim), _PAIRS, metas, strides, len(pieces), is_wide)
        compiled = kernel[programs](*arguments, pairs, *constants)
        if compiled is not None:  # None under the interpreter
            if len(_compiled) >= _KEPT_KERNELS:
                _compiled.clear()
            _compiled[key] = compiled, constants


_KEPT_KERNELS = 4096
_compiled: dict[tuple, tuple[Any, tuple]] = {}


def _alignments(arguments: tuple) -> tuple[bool, ...]:
    tensors = [entry for given in arguments for entry in (given if isinstance(given, tuple) else (given,))]
    return tuple(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def _extent(tensor: Tensor) -> int:
    return sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))


def _meta(piece: Piece) -> tuple[int, ...]:
    lse_strides = piece.lse.stride() if piece.lse is not None else (0,) * 5
    return (
        piece.start,
        piece.length,
        piece.rate,
        piece.modulus,
        *piece.origin,
        *piece.rows.shape[:5],
        *piece.rows.stride()[:5],
        *lse_strides,
    )
