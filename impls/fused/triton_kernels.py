# mypy: disable-error-code="no-untyped-def, import-not-found, import-untyped, no-untyped-call"
"""Merging and adding pieces in Triton: each element of each piece is read once, each result written once.

Where the pieces lie is known when a kernel is compiled: divisions by lengths and rates become shifts, and loads are as
wide as strides allow. A program serves some rows of one head, and passes over pieces that have none of them. Its rows
are so far apart that a piece of a higher rate has all of them or none. Where a result is there already, rows that are
in no piece are neither read nor written.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from attention_gate.impls.fused.grid import Piece

_ROWS = 32  # of each program
_WIDEST_STEP = 16  # between them: 32 rows that are further apart are more than some shards have


@triton.jit
def _place(batch, row, head, METAS: tl.constexpr, K: tl.constexpr):
    """Return where in a piece the rows of a head lie, whether they do, and the place of their lse."""
    # META: start, length, rate, modulus, origin (4), shape (5), strides of rows (5), strides of lse (5), and the
    # greatest common divisor of rate and step.
    META: tl.constexpr = METAS[K]
    x = row - META[0]
    segment, within = x // META[1], x % META[1]
    offset, column = head % META[3], head // META[3]
    ahead = within - offset
    count = ahead // META[2]
    b, s, o, j = batch - META[4], segment - META[5], offset - META[6], column - META[7]
    is_in = (x >= 0) & (ahead >= 0) & (ahead % META[2] == 0) & (count < META[12]) & (s >= 0) & (s < META[9])
    place = b * META[13] + s * META[14] + o * META[15] + j * META[16] + count * META[17]
    lse_place = b * META[18] + s * META[19] + o * META[20] + j * META[21] + count * META[22]
    return place, is_in, lse_place


@triton.jit
def _may_hold(batch, head, first, last, METAS: tl.constexpr, K: tl.constexpr):
    """Return whether a piece has the head of the batch, and may have any of the rows `first` to `last`."""
    META: tl.constexpr = METAS[K]
    from_start = META[0] + META[5] * META[1]
    b, o, j = batch - META[4], head % META[3] - META[6], head // META[3] - META[7]
    is_there = (b >= 0) & (b < META[8]) & (o >= 0) & (o < META[10]) & (j >= 0) & (j < META[11])
    is_there = is_there & ((first - META[0] - head % META[3]) % META[23] == 0)
    return is_there & (last >= from_start) & (first < from_start + META[9] * META[1])


@triton.jit
def _own(heads: tl.constexpr, rows: tl.constexpr, ROWS: tl.constexpr, STEP: tl.constexpr, WIDE: tl.constexpr):
    """Return batch, head, first row, and the rows of this program, which are a step apart."""
    program = tl.program_id(0)
    blocks: tl.constexpr = (rows + ROWS * STEP - 1) // (ROWS * STEP)
    head, batch = program % heads, program // (heads * STEP * blocks)
    first = program // heads % STEP + program // (heads * STEP) % blocks * (ROWS * STEP)
    row = first + STEP * tl.arange(0, ROWS)
    if WIDE:
        row, head, batch = row.to(tl.int64), head.to(tl.int64), batch.to(tl.int64)
    return batch, head, first, row


@triton.jit
def _merge(
    PIECES, LSES, out, lse, heads: tl.constexpr, rows: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, METAS: tl.constexpr, OUT: tl.constexpr, COUNT: tl.constexpr,
    ONTO: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    batch, head, first, row = _own(heads, rows, ROWS, STEP, WIDE)
    last = first + (ROWS - 1) * STEP
    lane = tl.arange(0, BLOCK)
    is_row = row < rows
    place = batch * OUT[0] + row * OUT[1] + head * OUT[2]
    lse_place = batch * OUT[3] + row * OUT[4] + head * OUT[5]
    peak = tl.full((ROWS,), float("-inf"), tl.float32)
    weight = tl.zeros((ROWS,), tl.float32)
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    is_changed = is_row
    if ONTO:
        is_changed = row < 0
        for k in tl.static_range(COUNT):
            if _may_hold(batch, head, first, last, METAS, k):
                _, is_in, _ = _place(batch, row, head, METAS, k)
                is_changed = is_changed | (is_in & is_row)
    mask = is_changed[:, None] & (lane < DIM)[None, :]
    if ONTO:
        values = tl.load(out + place[:, None] + lane[None, :], mask=mask, other=0.0).to(tl.float32)
        peak = tl.load(lse + lse_place, mask=is_changed, other=float("-inf"))
        weight = tl.exp(peak - tl.where(peak == float("-inf"), 0.0, peak))
        total = tl.where((weight == 0.0)[:, None], 0.0, weight[:, None] * values)
    for k in tl.static_range(COUNT):
        if _may_hold(batch, head, first, last, METAS, k):
            start, is_in, piece_place = _place(batch, row, head, METAS, k)
            is_in = is_in & is_row
            values = tl.load(
                PIECES[k] + start[:, None] + lane[None, :], mask=is_in[:, None] & (lane < DIM)[None, :], other=0.0
            ).to(tl.float32)
            denominator = tl.load(LSES[k] + piece_place, mask=is_in, other=float("-inf"))
            # Not a number stays one; where nothing has any weight yet the shift must be finite.
            higher = tl.where((peak > denominator) | (peak != peak), peak, denominator)
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            before, now = tl.exp(peak - shift), tl.exp(denominator - shift)
            # What weighs nothing counts nothing, also where it is not a number.
            total = total * before[:, None] + tl.where((now == 0.0)[:, None], 0.0, now[:, None] * values)
            weight = weight * before + now
            peak = higher
    result = tl.where((weight == 0.0)[:, None], 0.0, total / weight[:, None])
    tl.store(out + place[:, None] + lane[None, :], result.to(out.dtype.element_ty), mask=mask)
    tl.store(lse + lse_place, tl.where(peak == float("-inf"), 0.0, peak) + tl.log(weight), mask=is_changed)


@triton.jit
def _add(
    PIECES, out, heads: tl.constexpr, rows: tl.constexpr, DIM: tl.constexpr, BLOCK: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, METAS: tl.constexpr, OUT: tl.constexpr, COUNT: tl.constexpr,
    ONTO: tl.constexpr, WIDE: tl.constexpr,
):  # fmt: skip
    batch, head, first, row = _own(heads, rows, ROWS, STEP, WIDE)
    last = first + (ROWS - 1) * STEP
    lane = tl.arange(0, BLOCK)
    is_row = row < rows
    place = batch * OUT[0] + row * OUT[1] + head * OUT[2]
    is_changed = is_row
    total = tl.zeros((ROWS, BLOCK), tl.float32)
    if ONTO:
        is_changed = row < 0
    for k in tl.static_range(COUNT):
        if _may_hold(batch, head, first, last, METAS, k):
            start, is_in, _ = _place(batch, row, head, METAS, k)
            is_in = is_in & is_row
            mask = is_in[:, None] & (lane < DIM)[None, :]
            total += tl.load(PIECES[k] + start[:, None] + lane[None, :], mask=mask, other=0.0).to(tl.float32)
            is_changed = is_changed | is_in
    mask = is_changed[:, None] & (lane < DIM)[None, :]
    if ONTO:
        total += tl.load(out + place[:, None] + lane[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(out + place[:, None] + lane[None, :], total.to(out.dtype.element_ty), mask=mask)


def merge(out: Tensor, lse: Tensor, pieces: Sequence[Piece], onto: bool) -> None:
    """Do what impls.fused.combine.merge says."""
    lses = tuple(piece.lse for piece in pieces)
    strides = (*out.stride()[:3], *lse.stride())
    _launch(_merge, out, pieces, strides, onto, tuple(piece.rows for piece in pieces), lses, out, lse)


def add(total: Tensor, pieces: Sequence[Piece], onto: bool) -> None:
    """Do what impls.fused.combine.add says."""
    _launch(_add, total, pieces, total.stride()[:3], onto, tuple(piece.rows for piece in pieces), total)


def _launch(kernel, out: Tensor, pieces: Sequence[Piece], strides: tuple[int, ...], onto: bool, *arguments) -> None:
    batch, rows, heads, dim = out.shape
    if out.numel() == 0:
        return
    assert out.stride(-1) == 1
    assert all(piece.rows.stride(-1) == 1 for piece in pieces)
    # Triton works out at every launch what it must compile for; all that matters of it is here.
    step = _step(pieces, rows)
    metas = tuple((*_meta(piece), math.gcd(piece.rate, step)) for piece in pieces)
    key = (kernel, out.device, out.dtype, rows, heads, dim, strides, metas, onto, _alignments(arguments))
    programs = (batch * heads * step * -(-rows // (_ROWS * step)), 1, 1)
    with torch.cuda.device_of(out):
        if found := _compiled.get(key):
            compiled, constants = found
            compiled[programs](*arguments, *constants)
            return
        is_wide = max(map(_extent, [out, *(piece.rows for piece in pieces)])) >= 1 << 31
        block = triton.next_power_of_2(dim)
        constants = (heads, rows, dim, block, _ROWS, step, metas, strides, len(pieces), onto, is_wide)
        compiled = kernel[programs](*arguments, *constants)
        if compiled is not None:  # None under the interpreter
            if len(_compiled) >= _KEPT_KERNELS:
                _compiled.clear()
            _compiled[key] = compiled, constants


_KEPT_KERNELS = 4096
_compiled: dict[tuple, tuple[Any, tuple]] = {}


def _alignments(arguments: tuple) -> tuple[bool, ...]:
    tensors = [entry for given in arguments for entry in (given if isinstance(given, tuple) else (given,))]
    return tuple(tensor.data_ptr() % 16 == 0 for tensor in tensors)


def _step(pieces: Sequence[Piece], rows: int) -> int:
    """Return how far apart the rows of a program are: a multiple of as many rates as fits."""
    step = 1
    for rate in sorted({piece.rate for piece in pieces}):
        both = math.lcm(step, rate)
        if both <= _WIDEST_STEP and both * _ROWS <= rows:
            step = both
    return step


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
