"""Views of selected rows, element by element against what a branch selects; no row is copied."""

from itertools import product
from unittest.mock import Mock

import pytest
import torch
from torch import Tensor

from attention_gate.impls.fused.grid import (
    as_grid,
    buffered,
    calls,
    compact,
    extents_of,
    grid,
    kernel_views,
    local,
    usable,
)


def numbered(*shape: int) -> Tensor:
    """Return a part of a larger tensor, each element another number, not from the storage's first on."""
    larger = torch.arange(float(torch.Size([extent + 1 for extent in shape]).numel()))
    return larger.view([extent + 1 for extent in shape])[tuple(slice(1, None) for _ in shape)]


GRIDS = [  # batch, rows, heads, dim; segment length, rate
    ((2, 12, 6, 3), 4, 2),
    ((2, 12, 6, 3), 12, 1),
    ((3, 12, 4, 2), 6, 6),
    ((1, 16, 1, 2), 4, 2),
    ((2, 8, 2, 1), 8, 4),
    ((1, 12, 4, 2), 12, 4),
]


@pytest.mark.parametrize(("shape", "length", "rate"), GRIDS)
def test_a_grid_is_what_a_branch_selects(shape: tuple[int, int, int, int], length: int, rate: int) -> None:
    tensor = numbered(*shape)
    batch, rows, heads, dim = shape
    made = grid(tensor, length, rate)
    assert made.untyped_storage().data_ptr() == tensor.untyped_storage().data_ptr()
    offsets, columns = min(rate, heads), max(1, heads // rate)
    assert made.shape == (batch, rows // length, offsets, columns, length // rate, dim)
    for b, s, o, j, t in product(*map(range, made.shape[:5])):
        assert torch.equal(made[b, s, o, j, t], tensor[b, s * length + o + t * rate, o + j * rate])
    for first, last in ((0, 1), (rows // length - 1, rows // length)):
        assert torch.equal(local(tensor, length, rate, first, last), made[:, first:last])


def test_records_are_read_in_place() -> None:
    batch, offsets, heads, dim, lead = 2, 3, 2, 4, 5
    records = numbered(6, lead + batch * offsets * heads * dim + 1)
    made = compact(records, batch, offsets, heads, dim, lead)
    assert made.shape == (batch, 1, offsets, heads, 6, dim)
    whole = records[:, lead:-1].reshape(6, batch, offsets, heads, dim).permute(1, 2, 3, 0, 4).unsqueeze(1)
    assert torch.equal(made, whole)
    assert made.untyped_storage().data_ptr() == records.untyped_storage().data_ptr()
    assert torch.equal(compact(records, batch, offsets, heads, dim)[0, 0, 0, 0], records[:, :dim])
    some = buffered(records, batch, offsets, heads, dim, lead, 1, 6, 2)
    assert torch.equal(some, whole[:, :, :, :, 1:6:2])


@pytest.mark.parametrize("extents", list(product((1, 2, 3), (1, 2), (1, 2, 4), (1, 2, 3, 5))))
def test_kernels_take_each_part_of_a_grid_once_in_as_few_calls_as_may_be(
    extents: tuple[int, int, int, int],
) -> None:
    batch, segments, offsets, heads = extents
    length, rate, dim = 3 * offsets, offsets, 2
    query = numbered(batch, segments * length, offsets * heads, dim)
    whole = grid(query, length, rate)
    made = calls(extents)
    assert len(made) == (1 if 1 in (offsets, heads) else min(batch * segments, offsets, heads))
    seen = torch.zeros(extents)
    views = kernel_views(query, local, (length, rate, 0, segments), extents)
    for (part, axes), view in zip(made, views, strict=True):
        index = tuple(slice(start, stop) for start, stop in part)
        seen[index] += 1
        assert extents_of(part) == whole[index].shape[:4]
        assert view.ndim == 4
        # Batch and heads of a kernel, whatever they stand for, are rows of the grid again.
        assert torch.equal(as_grid(view, extents_of(part), axes), whole[index])
        result = view.clone() + 1
        back = as_grid(result, extents_of(part), axes)
        assert torch.equal(back, whole[index] + 1)
        assert back.data_ptr() == result.data_ptr()
    assert torch.equal(seen, torch.ones(extents))


def test_few_key_heads_stand_beside_many_query_heads() -> None:
    query, key = numbered(2, 8, 6, 3), numbered(2, 8, 2, 3)
    extents = (2, 1, 1, 6)
    (view,) = kernel_views(key, local, (8, 1, 0, 1), extents)
    assert torch.equal(view, key.transpose(1, 2))
    (view,) = kernel_views(query, local, (8, 1, 0, 1), extents)
    assert torch.equal(view, query.transpose(1, 2))
    ((part, axes),) = calls(extents)
    assert torch.equal(as_grid(key.transpose(1, 2), extents_of(part), axes), grid(key, 8, 1))


def test_views_are_views_where_strides_allow_and_copies_where_not() -> None:
    # Segments follow one another and batches do not: what is one axis in a kernel would have two strides.
    tensor = numbered(2, 12, 1, 3)
    extents, arguments = (2, 3, 1, 1), (4, 1, 0, 3)
    for _ in range(2):
        (view,) = kernel_views(tensor, local, arguments, extents)
        assert torch.equal(view, grid(tensor, 4, 1)[:, :, 0].flatten(0, 1))
        assert view.untyped_storage().data_ptr() != tensor.untyped_storage().data_ptr()
    packed = tensor.contiguous()
    for some in (packed, packed.clone(), torch.cat([packed, packed])[2:]):
        (view,) = kernel_views(some, local, arguments, extents)
        assert torch.equal(view, grid(some, 4, 1)[:, :, 0].flatten(0, 1))
        assert view.untyped_storage().data_ptr() == some.untyped_storage().data_ptr()


def test_how_views_come_about_is_worked_out_once_and_takes_no_memory() -> None:
    view = Mock(wraps=local)
    tensor, extents = torch.empty((1, 1 << 40, 2, 8), device="meta"), (1, 4, 1, 2)
    for _ in range(3):
        (made,) = kernel_views(tensor, view, (1 << 38, 1, 0, 4), extents)
        assert made.shape == (4, 2, 1 << 38, 8)
        assert as_grid(made, extents, (0, 1, 3)).shape == (1, 4, 1, 2, 1 << 38, 8)
    assert view.call_count == 1


def test_a_kernel_gets_rows_that_begin_where_it_can_load_them() -> None:
    storage = torch.randn(4 * 8 * 2 * 8 + 1).to(torch.bfloat16)
    whole, shifted = storage[:-1].view(4, 8, 2, 8), storage[1:].view(4, 8, 2, 8)
    assert usable(whole) is whole
    made = usable(shifted)
    assert shifted.is_contiguous()
    assert made.data_ptr() % 16 == 0
    assert torch.equal(made, shifted)
    for strided in (whole[:, :, :, ::2], whole[:, 1:5], whole.expand(4, 8, 2, 8)[:1].expand(4, 8, 2, 8)):
        assert usable(strided).is_contiguous()
        assert torch.equal(usable(strided), strided)
    heads_first = torch.randn(1, 2, 8, 8).to(torch.bfloat16).transpose(1, 2)
    assert usable(heads_first) is heads_first


@pytest.mark.parametrize(
    ("size", "strides", "is_usable"),
    [
        ((2, 4, 2, 8), (64, 16, 8, 1), True),
        ((2, 4, 2, 8), (128, 32, 8, 1), True),  # gaps, but one batch after the other
        ((2, 4, 2, 8), (80, 16, 8, 1), False),  # a gap between batches only
        ((1, 4, 2, 8), (80, 16, 8, 1), True),  # of which there is one
        ((1, 4, 2, 8), (64, 12, 8, 1), False),  # rows of 24 bytes
        ((1, 4, 2, 8), (64, 16, 4, 1), False),
        ((2, 4, 2, 8), (68, 16, 8, 1), False),
        ((1, 4, 2, 8), (68, 16, 8, 1), True),
        ((1, 4, 2, 4), (64, 16, 8, 2), False),
        ((1, 4, 2, 8), (64, 0, 8, 1), False),
        ((1, 4, 2, 8), (64, 16, 0, 1), False),
        ((1, 4, 2, 8), (0, 16, 8, 1), True),
        ((2, 4, 2, 8), (0, 16, 8, 1), False),
    ],
)
def test_which_strides_a_kernel_can_read(size: tuple[int, ...], strides: tuple[int, ...], is_usable: bool) -> None:
    tensor = torch.randn(1024).to(torch.bfloat16).as_strided(size, strides)
    made = usable(tensor)
    assert (made is tensor) == is_usable
    assert torch.equal(made, tensor)
    assert made is tensor or made.is_contiguous()
