"""Pieces somewhere in a tensor, and what they make up by the words of impls.fused.grid.Piece, in numpy."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from attention_gate.impls.fused.grid import Piece, grid


@dataclass(frozen=True)
class Shape:
    """Of what is made up: (batch, rows, heads, dim)."""

    batch: int
    rows: int
    heads: int
    dim: int


SHAPES = {
    "one program": Shape(1, 4, 2, 8),
    "a program in two batches": Shape(3, 5, 3, 8),
    "width of no power of two": Shape(2, 12, 4, 24),
    "a single element": Shape(1, 1, 1, 1),
    "many programs": Shape(1, 40, 4, 16),
    "one head": Shape(2, 33, 1, 5),
    "a program for each of many batches": Shape(10, 4, 8, 2),
    "programs of eight rows each": Shape(1, 48, 4, 2),
    "rows of a program apart": Shape(1, 270, 3, 2),
}


def random_piece(source: np.random.Generator, shape: Shape, dtype: torch.dtype, device: str) -> Piece:
    """Return a piece somewhere in the tensor, in odd strides: the rate divides the length, and may exceed the heads."""
    rate = int(source.choice([1, 1, 2, 3, 4, 8]))
    modulus = int(source.choice([1, rate]))
    length = rate * int(source.integers(1, 1 + max(1, shape.rows // rate)))
    start = int(source.integers(0, 1 + shape.rows // 2))
    segments, offsets = -(-(shape.rows - start) // length), min(modulus, shape.heads)
    columns, count = max(1, shape.heads // modulus), length // rate
    origin, extents = [], []
    for whole in (shape.batch, segments, offsets, columns):
        first = int(source.integers(0, whole))
        origin.append(first)
        extents.append(int(source.integers(1, whole - first + 1)))
    size = (*extents, int(source.integers(1, count + 1)))
    order = [int(axis) for axis in source.permutation(5)]

    def made(sizes: tuple[int, ...], axes: list[int]) -> Tensor:
        # A part of something larger, its axes in any order.
        larger = [2 * sizes[axis] + 1 for axis in axes] + list(sizes[5:])
        values = torch.from_numpy(source.normal(size=larger)).to(device)
        values = values.permute(*np.argsort(axes).tolist(), *range(5, len(larger)))
        return values[tuple(slice(1, 2 * extent, 2) for extent in sizes[:5])]

    rows = made((*size, shape.dim), order).to(dtype)
    lse = made(size, [order[place] for place in (4, 2, 0, 1, 3)]).mul(8).to(torch.float32)
    assert rows.stride(-1) == 1 or shape.dim == 1
    return Piece(rows, lse, length, rate, modulus, start, (origin[0], origin[1], origin[2], origin[3]))


def places(piece: Piece, shape: Shape) -> list[tuple[tuple[int, ...], tuple[int, int, int]]]:
    """Return where each row of the piece lies in it, and which batch, row and head it is, by the words of Piece."""
    found = []
    for index in np.ndindex(*piece.rows.shape[:5]):
        b, s, o, j = (k + first for k, first in zip(index[:4], piece.origin, strict=True))
        row, head = piece.start + s * piece.length + o + index[4] * piece.rate, o + j * piece.modulus
        # Rows of a short last segment, and what lies beyond its own segment, are nobody's.
        if row < shape.rows and head < shape.heads and o + index[4] * piece.rate < piece.length:
            found.append((index, (b, row, head)))
    return found


def expected_sum(pieces: list[Piece], shape: Shape) -> np.ndarray:
    total = np.zeros((shape.batch, shape.rows, shape.heads, shape.dim))
    for piece in pieces:
        rows = piece.rows.double().cpu().numpy()
        for index, place in places(piece, shape):
            total[place] += rows[index]
    return total


def expected_merge(pieces: list[Piece], shape: Shape) -> tuple[np.ndarray, np.ndarray]:
    total = np.zeros((shape.batch, shape.rows, shape.heads, shape.dim))
    weight = np.zeros(total.shape[:3])
    for piece in pieces:
        assert piece.lse is not None
        rows, lse = piece.rows.double().cpu().numpy(), piece.lse.double().cpu().numpy()
        for index, place in places(piece, shape):
            if np.exp(lse[index]) != 0:
                total[place] += np.exp(lse[index]) * rows[index]
                weight[place] += np.exp(lse[index])
    with np.errstate(divide="ignore", invalid="ignore"):
        out = np.where(weight[..., None] == 0, 0.0, total / weight[..., None])
        return out, np.log(weight)


def whole_piece(rows: Tensor, lse: Tensor) -> Piece:
    """Return a tensor (batch, rows, heads, dim) and its lse as one piece."""
    length = rows.shape[1]
    return Piece(grid(rows, length, 1), grid(lse.unsqueeze(-1), length, 1).squeeze(-1), length, 1, 1)
