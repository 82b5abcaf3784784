"""Selected rows as strided views: what a branch selects is a regular grid, and no row of it needs to be copied.

Of rows i = s w + o + t r and heads h = o + j r a branch of segment length w and rate r forms the grid (s, o, j, t): the
segment, the offset, the head among those of that offset, the row. As head h has the offset h mod r, a step in o is one
row and one head: all four are strides, so that a kernel that takes strides reads the rows where they lie.
"""

from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

Origin = tuple[int, int, int, int]  # the first batch, segment, offset and head of a part of a grid
Extents = tuple[int, int, int, int]  # how many batches, segments, offsets and heads of an offset there are
Part = tuple[tuple[int, int], ...]  # where a part of a grid begins and ends along each of these
Axes = tuple[int, int, int]  # the order in which axes stand before the rows: two become batch and one heads
View = Callable[..., Tensor]


class Piece(NamedTuple):
    """Rows that belong to a part of a tensor (batch, rows, heads, dim), and how to find them for a row and a head.

    Row i and head h are in the piece where x = i - start is not negative, o = h mod modulus, (x mod length - o) is a
    multiple of rate, and batch, x // length, o, h // modulus and the row count lie within the piece's shape from
    `origin` on. `rows` is (batch, segments, offsets, heads, rows, dim), `lse` the same without dim.
    """

    rows: Tensor
    lse: Tensor | None
    length: int
    rate: int
    modulus: int
    start: int = 0
    origin: Origin = (0, 0, 0, 0)


def grid(tensor: Tensor, length: int, rate: int) -> Tensor:
    """Return (batch, rows, heads, dim) as a view (batch, segments, offsets, heads of an offset, rows, dim).

    `length` divides the rows, `rate` divides it, and it divides the heads or is at least as large.
    """
    batch, rows, heads, dim = tensor.shape
    of_batch, of_row, of_head, of_dim = tensor.stride()
    shape = (batch, rows // length, min(rate, heads), max(1, heads // rate), length // rate, dim)
    strides = (of_batch, length * of_row, of_row + of_head, rate * of_head, rate * of_row, of_dim)
    return tensor.as_strided(shape, strides, tensor.storage_offset())


def compact(rows: Tensor, batch: int, offsets: int, heads: int, dim: int, first: int = 0) -> Tensor:
    """Return records (rows, elements) as a grid: each holds, from `first` on, (batch, offset, head, dim)."""
    of_row = rows.stride(0)
    strides = (offsets * heads * dim, 0, heads * dim, dim, of_row, 1)
    return rows.as_strided((batch, 1, offsets, heads, len(rows), dim), strides, rows.storage_offset() + first)


def local(tensor: Tensor, length: int, rate: int, first: int, last: int) -> Tensor:
    """Return the segments `first` to `last` of a tensor's grid."""
    return grid(tensor, length, rate)[:, first:last]


def buffered(
    rows: Tensor, batch: int, offsets: int, heads: int, dim: int, lead: int, start: int, stop: int, step: int
) -> Tensor:
    """Return some of the rows of records as a grid."""
    return compact(rows, batch, offsets, heads, dim, lead)[:, :, :, :, start:stop:step]


@lru_cache(maxsize=1024)
def calls(extents: Extents) -> tuple[tuple[Part, Axes], ...]:
    """Return the parts of a grid (batch, segments, offsets, heads) that one kernel can take, and its axes in each.

    A kernel has two axes besides the rows, batch and heads. Batch and segment are one where both are whole; of these,
    offsets and heads the shortest is taken one by one if there are three.
    """
    batch, segments, offsets, heads = extents
    b, s, o, j = whole = ((0, batch), (0, segments), (0, offsets), (0, heads))
    if offsets == 1:
        return ((whole, (0, 1, 3)),)
    if heads == 1:
        return ((whole, (0, 1, 2)),)
    if batch * segments <= min(offsets, heads):
        return tuple((((k, k + 1), (m, m + 1), o, j), (1, 2, 3)) for k in range(batch) for m in range(segments))
    if offsets <= heads:
        return tuple(((b, s, (k, k + 1), j), (0, 1, 3)) for k in range(offsets))
    return tuple(((b, s, o, (k, k + 1)), (0, 1, 2)) for k in range(heads))


def kernel_views(tensor: Tensor, view: View, arguments: tuple[int, ...], extents: Extents) -> list[Tensor]:
    """Return what each kernel takes of `view(tensor, *arguments)`, as (batch, heads, rows, dim).

    `extents` are those of the queries' grid, by which all tensors are split. How sizes and strides come about is worked
    out once: a call makes one view for each tensor of a kernel.
    """
    recipe = _recipe(view, arguments, tensor.shape, tensor.stride(), extents)
    start = tensor.storage_offset()
    if recipe is not None:
        return [tensor.as_strided(size, strides, start + offset) for size, strides, offset in recipe]
    whole = view(tensor, *arguments)
    return [_to_kernel(whole, part, axes) for part, axes in calls(extents)]


def as_grid(result: Tensor, extents: Extents, axes: Axes) -> Tensor:
    """Return a kernel's (batch, heads, rows, dim) as a grid of these extents, but of as many heads as it has."""
    size, strides = _outcome(result.shape, result.stride(), extents, axes)
    return result.as_strided(size, strides, result.storage_offset())


@lru_cache(maxsize=1024)
def extents_of(part: Part) -> Extents:
    """Return the extents of a part of a grid."""
    b, s, o, j = (stop - start for start, stop in part)
    return b, s, o, j


@lru_cache(maxsize=8192)
def _recipe(
    view: View, arguments: tuple[int, ...], shape: torch.Size, strides: tuple[int, ...], extents: Extents
) -> tuple[tuple[torch.Size, tuple[int, ...], int], ...] | None:
    """Return size, strides and offset of what each kernel takes, or None where copies must be made."""
    whole = view(torch.empty_strided(shape, strides, device="meta"), *arguments)
    made = [_to_kernel(whole, part, axes) for part, axes in calls(extents)]
    if not all(tensor._is_view() for tensor in made):
        return None
    return tuple((tensor.shape, tensor.stride(), int(tensor.storage_offset())) for tensor in made)


@lru_cache(maxsize=8192)
def _outcome(
    shape: torch.Size, strides: tuple[int, ...], extents: Extents, axes: Axes
) -> tuple[torch.Size, tuple[int, ...]]:
    result = torch.empty_strided(shape, strides, device="meta")
    left = _left(axes)
    places = _places(axes, left)
    split = result.unflatten(0, (extents[axes[0]], extents[axes[1]]))
    made = split.permute(*(places.index(axis) for axis in range(3)), 3, 4).unsqueeze(left)
    return made.shape, made.stride()


def _to_kernel(whole: Tensor, part: Part, axes: Axes) -> Tensor:
    left = _left(axes)
    some = whole
    for axis, (start, stop) in enumerate(part):
        # All heads of an offset, however many there are: those of keys may be fewer than those of queries.
        if axis != 3 or left == 3:
            some = some.narrow(axis, start, stop - start)
    return some.squeeze(left).permute(*_places(axes, left), 3, 4).flatten(0, 1)


def _left(axes: Axes) -> int:
    return ({0, 1, 2, 3} - set(axes)).pop()


def _places(axes: Axes, left: int) -> list[int]:
    return [axis - (axis > left) for axis in axes]


def usable(tensor: Tensor) -> Tensor:
    """Return the tensor if a kernel can read it where it lies, else a contiguous copy."""
    batch, rows = tensor.shape[:2]
    strides = tensor.stride()
    is_aligned = tensor.data_ptr() % 16 == 0 and all(stride * tensor.element_size() % 16 == 0 for stride in strides[:3])
    is_ordered = strides[3] == 1 and min(strides[:3]) > 0 and (batch == 1 or strides[0] == rows * strides[1])
    if is_aligned and is_ordered:
        return tensor
    # A contiguous tensor is its own contiguous copy, wherever in its storage it begins.
    made = tensor.contiguous()
    return made if made.data_ptr() % 16 == 0 else made.clone()
