"""The kernels that merge and add pieces against their definition in numpy: compiled on a GPU, interpreted elsewhere."""

import importlib.util
import os
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_gate.impls.fused.grid import Piece, grid
from tests.impls.cases import Case, assert_close
from tests.impls.made_pieces import SHAPES, Shape, expected_merge, expected_sum, random_piece, whole_piece
from tests.impls.test_fused import run_fused
from tests.impls.worlds import results

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed", allow_module_level=True)

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
if DEVICE == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"  # before any test imports the kernels, whether one of these or not
ROUNDING = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}


#: The interpreter computes in numpy, which warns of 0 / 0 where a GPU is silent; the kernel then selects another value.
pytestmark = pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")


def kernels() -> Any:
    """Return the module of kernels, which are interpreted where there is no GPU."""
    from attention_gate.impls.fused import triton_kernels

    return triton_kernels


def targets(shape: Shape, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return where to write, out in heads of a wider tensor, lse heads first, filled with what must not stay."""
    wide = torch.full((shape.batch, shape.rows, 2 * shape.heads + 1, shape.dim), 7.0, dtype=dtype, device=DEVICE)
    lse = torch.full((shape.batch, shape.heads, shape.rows), 7.0, device=DEVICE).transpose(1, 2)
    return wide[:, :, 1 : 1 + shape.heads], lse


def check_merge(pieces: list[Piece], shape: Shape, dtype: torch.dtype) -> None:
    out, lse = targets(shape, dtype)
    kernels().merge(out, lse, pieces, False)
    right, right_lse = expected_merge(pieces, shape)
    np.testing.assert_allclose(out.double().cpu().numpy(), right, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
    np.testing.assert_allclose(lse.double().cpu().numpy(), right_lse, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", SHAPES)
def test_pieces_are_merged_by_their_denominators(name: str, dtype: torch.dtype) -> None:
    source = np.random.default_rng(len(name))
    for _ in range(3):
        check_merge(
            [random_piece(source, SHAPES[name], dtype, DEVICE) for _ in range(source.integers(1, 4))],
            SHAPES[name],
            dtype,
        )


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", SHAPES)
def test_pieces_are_added(name: str, dtype: torch.dtype) -> None:
    source, shape = np.random.default_rng(len(name)), SHAPES[name]
    for _ in range(3):
        pieces = [random_piece(source, shape, dtype, DEVICE) for _ in range(source.integers(1, 5))]
        pieces[0] = pieces[0]._replace(lse=None)
        total, _ = targets(shape, dtype)
        kernels().add(total, pieces, False)
        np.testing.assert_allclose(
            total.double().cpu().numpy(), expected_sum(pieces, shape), rtol=ROUNDING[dtype], atol=ROUNDING[dtype]
        )


def test_rows_that_lie_beyond_32_bits() -> None:
    """Rows 2^30 elements apart, of which little memory is touched; the last begins at 2^31."""
    try:
        storage = torch.empty((1 << 31) + 64, dtype=torch.bfloat16, device=DEVICE)
    except RuntimeError:
        pytest.skip("there is no memory for 2^31 elements")
    rows, total = (storage.as_strided((1, 3, 2, 8), (64, 1 << 30, 8, 1), first) for first in (0, 16))
    values = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 2, 8))).to(DEVICE, torch.bfloat16)
    rows.copy_(values)
    piece, lse = Piece(grid(rows, 3, 1), torch.zeros((1, 1, 1, 2, 3), device=DEVICE), 3, 1, 1), torch.empty(1, 3, 2)
    for write in (
        lambda: kernels().add(total, [piece], False),
        lambda: kernels().merge(total, lse.to(DEVICE), [piece], False),
    ):
        total.zero_()
        write()
        assert torch.equal(total, values)


def test_an_offset_beyond_32_bits_is_noticed() -> None:
    extent = kernels()._extent
    assert extent(torch.empty((1 << 20, 32, 64), device="meta")) == (1 << 31) - 1
    assert extent(torch.empty((1 << 20, 32, 128), device="meta")) >= 1 << 31


def test_what_weighs_nothing_counts_nothing() -> None:
    """Also where it is not a number; with nothing else the row is 0 and its lse -inf, as where there is no piece."""
    shape = SHAPES["many programs"]
    source = np.random.default_rng(1)
    weightless = random_piece(source, shape, torch.float32, DEVICE)
    assert weightless.lse is not None
    whole, denominators = torch.ones((1, 40, 4, 16), device=DEVICE), torch.zeros((1, 40, 4), device=DEVICE)
    other = whole_piece(whole, denominators)
    weightless = weightless._replace(
        rows=torch.full_like(weightless.rows, float("nan")), lse=torch.full_like(weightless.lse, float("-inf"))
    )
    for pieces in ([weightless], [weightless, other], [other, weightless], [weightless, weightless]):
        check_merge(pieces, shape, torch.float32)


def test_a_denominator_that_is_not_a_number_stays_one() -> None:
    shape = SHAPES["one program"]
    whole = torch.ones((1, 4, 2, 8), device=DEVICE)
    lse = torch.zeros((1, 4, 2), device=DEVICE)
    lse[0, 1, 1] = float("nan")
    bad = whole_piece(whole, lse)
    good = bad._replace(lse=torch.zeros_like(bad.lse))  # type: ignore[arg-type]
    for pieces in ([bad, good], [good, bad]):
        out, total = targets(shape, torch.float32)
        kernels().merge(out, total, pieces, False)
        is_bad = torch.zeros((1, 4, 2), dtype=torch.bool, device=DEVICE)
        is_bad[0, 1, 1] = True
        assert torch.equal(total.isnan(), is_bad)
        assert torch.equal(out.isnan().all(-1), is_bad)
        assert torch.equal(out.isnan().any(-1), is_bad)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("name", SHAPES)
def test_what_is_there_already_stays_where_no_piece_is(name: str, dtype: torch.dtype) -> None:
    """Elsewhere pieces come to it; not a number in a row that no piece has is not touched."""
    source, shape = np.random.default_rng(len(name)), SHAPES[name]
    for count in (0, 1, 2, 3):
        pieces = [random_piece(source, shape, dtype, DEVICE) for _ in range(count)]
        out, lse = targets(shape, dtype)
        out.copy_(torch.from_numpy(source.normal(size=out.shape)))
        lse.copy_(torch.from_numpy(source.normal(size=lse.shape)))
        before = whole_piece(out.clone(), lse.clone())
        total = out.clone()
        right, right_lse = expected_merge([before, *pieces], shape)
        kernels().merge(out, lse, pieces, True)
        np.testing.assert_allclose(out.double().cpu().numpy(), right, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])
        np.testing.assert_allclose(lse.double().cpu().numpy(), right_lse, rtol=2e-6, atol=2e-6)
        right = expected_sum([before, *pieces], shape)
        kernels().add(total, pieces, True)
        np.testing.assert_allclose(total.double().cpu().numpy(), right, rtol=ROUNDING[dtype], atol=ROUNDING[dtype])


def test_rows_in_no_piece_are_not_touched() -> None:
    """What is not a number there would show in a sum; and so it would where it is read for another row."""
    rows = torch.full((1, 64, 2, 8), float("nan"), device=DEVICE)
    lse = torch.full((1, 64, 2), float("nan"), device=DEVICE)
    mine = torch.ones((1, 64, 2, 8), device=DEVICE)
    piece = Piece(grid(mine, 64, 2), torch.zeros((1, 1, 2, 1, 32), device=DEVICE), 64, 2, 2)
    is_in = (torch.arange(64)[:, None] % 2 == torch.arange(2)[None, :]).to(DEVICE)
    rows[0, is_in], lse[0, is_in] = 3.0, 0.0
    out, total = rows.clone(), rows.clone()
    kernels().merge(out, lse, [piece], True)
    kernels().add(total, [piece], True)
    for found, value in ((out, 2.0), (total, 4.0)):
        assert (found[0, is_in] == value).all()
        assert found[0, ~is_in].isnan().all()
    torch.testing.assert_close(lse[0, is_in], torch.full((64,), float(np.log(2.0)), device=DEVICE))
    assert lse[0, ~is_in].isnan().all()


def test_no_elements_and_no_pieces() -> None:
    for shape in ((1, 0, 2, 8), (0, 4, 2, 8), (1, 4, 2, 0)):
        kernels().add(torch.empty(shape, device=DEVICE), [], False)
    total, _ = targets(SHAPES["one program"], torch.float32)
    kernels().add(total, [], False)
    assert not total.any()


@pytest.mark.parametrize("name", ["programs of eight rows each", "a program for each of many batches", "one head"])
def test_a_row_is_found_by_the_program_that_serves_it(name: str) -> None:
    shape, source = SHAPES[name], np.random.default_rng(0)
    for start in sorted({0, 7, 8, 31, shape.rows - 1} & set(range(shape.rows))):
        rows = torch.from_numpy(source.normal(size=(shape.batch, 1, shape.heads, shape.dim))).float().to(DEVICE)
        piece = whole_piece(rows, torch.zeros(rows.shape[:3], device=DEVICE))._replace(start=start, lse=None)
        total, _ = targets(shape, torch.float32)
        kernels().add(total, [piece], False)
        np.testing.assert_allclose(total.cpu().numpy(), expected_sum([piece], shape), rtol=0, atol=1e-6)


@pytest.mark.parametrize("rates", [(1, 3, 16), (1, 4, 24), (2, 64), (5, 16)])
def test_rates_that_no_step_serves_are_served(rates: tuple[int, ...]) -> None:
    """Of 3 and 16, of 24 and of 64 a program has some rows; of 5 and 16 the step is a multiple of one alone."""
    source, length = np.random.default_rng(0), 960
    shape = Shape(1, length, 2, 2)
    pieces = []
    for rate in rates:
        drawn = torch.from_numpy(source.normal(size=(1, length, 2, 2))).float().to(DEVICE)
        lse = torch.from_numpy(source.normal(size=(1, 1, min(rate, 2), max(1, 2 // rate), length // rate)))
        pieces.append(Piece(grid(drawn, length, rate), lse.float().to(DEVICE), length, rate, rate))
    total, _ = targets(shape, torch.float32)
    kernels().add(total, pieces, False)
    np.testing.assert_allclose(total.cpu().numpy(), expected_sum(pieces, shape), rtol=0, atol=2e-6)
    check_merge(pieces, shape, torch.float32)


class Kernel:
    """Stands in for a kernel: notes what it is launched on, and what is launched of what was compiled for that."""

    def __init__(self) -> None:
        self.launched: list[tuple[str, tuple[int, ...]]] = []
        self.constants: tuple[Any, ...] = ()

    def __getitem__(self, programs: tuple[int, ...]) -> Any:
        def launch(_rows: Any, _out: Any, *constants: Any) -> Any:
            self.launched.append(("anew", programs))
            self.constants = constants
            return self.compiled

        return launch

    @property
    def compiled(self) -> Any:
        def programs_of(programs: tuple[int, ...]) -> Any:
            return lambda _rows, _out, *_: self.launched.append(("kept", programs))

        return Mock(__getitem__=Mock(side_effect=programs_of))


def launch(kernel: Kernel, out: Tensor, rows: Tensor, *, onto: bool = False, keep: int = 100) -> tuple[str, Any]:
    """Launch the stand-in on a piece, and return how."""
    module = kernels()
    piece = Piece(grid(rows, rows.shape[1], 1), None, rows.shape[1], 1, 1)
    with patch.object(module, "_KEPT_KERNELS", keep):
        before = len(kernel.launched)
        module._launch(kernel, out, [piece], out.stride()[:3], onto, (piece.rows,), out)
    (launched,) = kernel.launched[before:]
    return launched


def test_what_was_compiled_is_launched_again_where_all_is_alike() -> None:
    storage = torch.zeros(1024)
    out, aligned = storage[:48].view(1, 3, 2, 8), storage[64:112].view(1, 3, 2, 8)
    unaligned = storage[129:177].view(1, 3, 2, 8)
    other = storage[256:352].view(1, 3, 4, 8)[:, :, :2]
    with patch.object(kernels(), "_compiled", {}):
        kernel = Kernel()
        for rows in (aligned, unaligned, other):
            assert [launch(kernel, out, rows)[0] for _ in range(2)] == ["anew", "kept"]
        assert launch(kernel, out, storage[130:178].view(1, 3, 2, 8))[0] == "kept"  # unaligned as well
        assert launch(kernel, storage[401:449].view(1, 3, 2, 8), aligned)[0] == "anew"
        assert launch(kernel, out, aligned)[0] == "kept"
        assert [launch(kernel, out, aligned, onto=True)[0] for _ in range(2)] == ["anew", "kept"]
        assert launch(kernel, out, aligned)[0] == "kept"
        assert launch(Kernel(), out, aligned)[0] == "anew"


def test_not_all_that_was_compiled_is_kept() -> None:
    storage = torch.zeros(4096)
    module = kernels()
    with patch.object(module, "_compiled", {}):
        kernel = Kernel()
        for heads in range(1, 8):
            tensor = storage[: 8 * heads].view(1, 1, heads, 8)
            assert launch(kernel, tensor, tensor, keep=3)[0] == "anew"
            assert launch(kernel, tensor, tensor, keep=3)[0] == "kept"
            assert len(module._compiled) <= 3
        assert len(module._compiled) == 1


@pytest.mark.parametrize(("rows", "programs"), [(1, 6), (31, 6), (32, 6), (33, 12), (64, 12), (65, 18)])
def test_a_program_serves_32_rows_of_a_head(rows: int, programs: int) -> None:
    with patch.object(kernels(), "_compiled", {}):
        kernel, tensor = Kernel(), torch.zeros(3, rows, 2, 8)
        assert launch(kernel, tensor, tensor) == ("anew", (programs, 1, 1))


@pytest.mark.parametrize(
    ("stride", "is_wide"), [((1 << 31) - 16, False), ((1 << 31) - 15, True), (1 << 31, True), (16, False)]
)
def test_offsets_are_wide_where_any_tensor_reaches_beyond_32_bits(stride: int, is_wide: bool) -> None:
    narrow = torch.empty((1, 2, 2, 8), device="meta")
    reaching = torch.empty_strided((1, 2, 2, 8), (0, stride, 8, 1), device="meta")
    for out, rows in ((narrow, reaching), (reaching, narrow)):
        with patch.object(kernels(), "_compiled", {}):
            kernel = Kernel()
            launch(kernel, out, rows)
            assert kernel.constants[-1] is is_wide


WHOLE = {
    "dense causal, grouped": Case(16, ((16, 1),), True, heads=4, kv_heads=2, dtype="float32"),
    "branches": Case(32, ((4, 1), (8, 2), (32, 8)), True, heads=8, kv_heads=8, dtype="float32"),
    "spanning": Case(32, ((4, 2), (16, 4), (32, 4)), heads=4, kv_heads=4, batch=2, dtype="float32"),
}


def run_interpreted(rank: int, implementation: str, case: Case) -> dict[str, np.ndarray]:
    """Run a case whose pieces all go through the kernels, whatever their size and dtype."""
    kernels()
    with np.errstate(all="ignore"), patch("attention_gate.impls.fused.combine._has_kernels", lambda _: True):
        return run_fused(rank, implementation, case)


@pytest.mark.skipif(DEVICE == "cuda", reason="the worlds of these tests have no GPU")
@pytest.mark.parametrize("name", WHOLE)
def test_whole_calls_through_the_kernels(name: str) -> None:
    assert_close(results(2, run_interpreted, "robust", WHOLE[name]), WHOLE[name], tolerance=1e-5)
