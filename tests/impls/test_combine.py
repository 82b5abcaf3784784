"""What several pieces make up, without a GPU: merged by their denominators or added, as numpy has it."""

from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch

from attention_gate.impls.fused import combine
from attention_gate.impls.fused.combine import add, merge
from attention_gate.impls.fused.grid import Piece
from tests.impls.made_pieces import SHAPES, Shape, expected_merge, expected_sum, places, random_piece, whole_piece

DTYPES = {torch.float64: 1e-12, torch.float32: 2e-6, torch.bfloat16: 1.6e-2}


def pieces_within(source: np.random.Generator, shape: Shape, dtype: torch.dtype, count: int) -> list[Piece]:
    """Return pieces of which every row is a row of the tensor."""
    found: list[Piece] = []
    while len(found) < count:
        piece = random_piece(source, shape, dtype, "cpu")
        if len(places(piece, shape)) == np.prod(piece.rows.shape[:5]):
            found.append(piece)
    return found


def wide_lse(pieces: list[Piece], dtype: torch.dtype) -> list[Piece]:
    return [piece._replace(lse=piece.lse.to(dtype)) for piece in pieces if piece.lse is not None]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_pieces_are_merged_by_their_denominators(name: str, dtype: torch.dtype) -> None:
    source, shape = np.random.default_rng(len(name)), SHAPES[name]
    accumulated = torch.promote_types(dtype, torch.float32)
    for count in (0, 1, 2, 3, 4):
        pieces = wide_lse(pieces_within(source, shape, dtype, count), accumulated)
        out = torch.full((shape.batch, shape.rows, shape.heads, shape.dim), 7.0, dtype=dtype)
        lse = torch.full(out.shape[:3], 7.0, dtype=accumulated)
        merge(out, lse, pieces)
        right, right_lse = expected_merge(pieces, shape)
        np.testing.assert_allclose(out.double(), right, rtol=DTYPES[dtype], atol=DTYPES[dtype])
        np.testing.assert_allclose(lse.double(), right_lse, rtol=DTYPES[accumulated], atol=DTYPES[accumulated])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SHAPES)
def test_pieces_are_added(name: str, dtype: torch.dtype) -> None:
    source, shape = np.random.default_rng(len(name)), SHAPES[name]
    for count in (0, 1, 2, 3, 4):
        pieces = pieces_within(source, shape, dtype, count)
        total = torch.full((shape.batch, shape.rows, shape.heads, shape.dim), 7.0, dtype=dtype)
        add(total, pieces)
        np.testing.assert_allclose(total.double(), expected_sum(pieces, shape), rtol=DTYPES[dtype], atol=DTYPES[dtype])


def test_half_types_are_summed_in_float32() -> None:
    """A thousandth is lost beside one in bfloat16, however often it comes."""
    total = torch.empty((1, 1, 1, 1), dtype=torch.bfloat16)
    one, small = torch.ones_like(total), torch.full_like(total, 0.001)
    zeros = torch.zeros((1, 1, 1))
    pieces = [whole_piece(rows, zeros) for rows in [one] + [small] * 99]
    add(total, pieces)
    assert abs(total.item() - 1.099) < 0.01
    merge(total, zeros.clone(), pieces)
    assert abs(total.item() - 0.01099) < 1e-4


def test_denominators_far_beyond_the_exponents_range() -> None:
    """Also where all of them are so small that their sum is nothing without a shift."""
    for offset in (-5000.0, 5000.0):
        out, lse = torch.empty((1, 3, 1, 2), dtype=torch.float64), torch.empty((1, 3, 1), dtype=torch.float64)
        values = [torch.full_like(out, value) for value in (1.0, 2.0)]
        denominators = [torch.full_like(lse, offset), torch.full_like(lse, offset + np.log(3.0))]
        merge(out, lse, [whole_piece(*each) for each in zip(values, denominators, strict=True)])
        torch.testing.assert_close(out, torch.full_like(out, 1.75))
        torch.testing.assert_close(lse, torch.full_like(lse, offset + np.log(4.0)))


def test_what_weighs_nothing_counts_nothing_and_what_is_no_number_stays() -> None:
    out, lse = torch.empty((1, 2, 1, 2)), torch.empty((1, 2, 1))
    rows = torch.tensor([float("nan"), 1.0]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
    denominators = torch.tensor([float("-inf"), 0.0]).view(1, 2, 1)
    weightless = whole_piece(rows, denominators)
    merge(out, lse, [weightless])
    assert out[0, :, 0, 0].tolist() == [0.0, 1.0]
    assert lse[0, :, 0].tolist() == [float("-inf"), 0.0]
    other = whole_piece(torch.full_like(out, 3.0), torch.zeros_like(lse))
    for pieces in ([weightless, other], [other, weightless]):
        merge(out, lse, pieces)
        assert out[0, :, 0, 0].tolist() == [3.0, 2.0]
        torch.testing.assert_close(lse[0, :, 0], torch.tensor([0.0, np.log(2.0)], dtype=lse.dtype))
    merge(out, lse, [weightless._replace(lse=torch.full_like(denominators, float("nan")).view(1, 1, 1, 1, 2))])
    assert out.isnan().all()
    assert lse.isnan().all()


def test_pieces_come_to_what_is_there_already() -> None:
    source, shape = np.random.default_rng(2), SHAPES["many programs"]
    out = torch.from_numpy(source.normal(size=(shape.batch, shape.rows, shape.heads, shape.dim)))
    lse = torch.from_numpy(source.normal(size=out.shape[:3]))
    for count in (0, 1, 3):
        pieces = wide_lse(pieces_within(source, shape, torch.float64, count), torch.float64)
        before = whole_piece(out.clone(), lse.clone())
        right, right_lse = expected_merge([before, *pieces], shape)
        total = out.clone()
        merge(out, lse, pieces, onto=True)
        np.testing.assert_allclose(out, right, rtol=1e-12)
        np.testing.assert_allclose(lse, right_lse, rtol=1e-12)
        add(total, pieces, onto=True)
        np.testing.assert_allclose(total, expected_sum([before, *pieces], shape), rtol=1e-12)


@pytest.mark.parametrize(
    ("is_cuda", "elements", "dtype", "is_worth_it"),
    [
        (True, 1 << 20, torch.bfloat16, True),
        (True, 1 << 20, torch.float16, True),
        (True, (1 << 20) - 1, torch.bfloat16, False),
        (True, 1 << 20, torch.float32, False),
        (False, 1 << 20, torch.bfloat16, False),
    ],
)
def test_when_kernels_of_their_own_serve(is_cuda: bool, elements: int, dtype: torch.dtype, is_worth_it: bool) -> None:
    tensor = Mock(is_cuda=is_cuda, dtype=dtype)
    tensor.numel.return_value = elements
    assert combine._has_kernels(tensor) == is_worth_it


def test_kernels_do_all_or_nothing() -> None:
    kernels = Mock()
    out, lse = torch.ones((1, 1, 1, 1)), torch.ones((1, 1, 1))
    with (
        patch.object(combine, "_has_kernels", lambda _: True),
        patch.dict("sys.modules", {"attention_gate.impls.fused.triton_kernels": kernels}),
    ):
        merge(out, lse, [])
        merge(out, lse, [], onto=True)
        add(out, [])
        add(out, [], onto=True)
    assert [call.args for call in kernels.merge.call_args_list] == [(out, lse, [], onto) for onto in (False, True)]
    assert [call.args for call in kernels.add.call_args_list] == [(out, [], onto) for onto in (False, True)]
    assert out.item() == lse.item() == 1.0
