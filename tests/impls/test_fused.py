"""The path through fused kernels, with plain products in their place: what is a view, what travels, what is merged."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist

from attention_gate.impls.fused.pipeline import Pipeline
from attention_gate.impls.tiling import Layout
from tests.impls.cases import (
    IMPLEMENTATIONS,
    Case,
    assert_close,
    attend,
    collect,
    expected,
    run_case,
    whole,
)
from tests.impls.worlds import results

CASES = {
    "dense": Case(16, ((16, 1),), heads=4, kv_heads=4),
    "dense causal": Case(16, ((16, 1),), is_causal=True, heads=4, kv_heads=2),
    "dense, several batches": Case(16, ((16, 1),), heads=4, kv_heads=2, batch=3),
    "nested branches": Case(16, ((4, 1), (8, 4), (16, 4)), heads=4, kv_heads=4, batch=2),
    "nested branches causal": Case(32, ((4, 1), (8, 2), (32, 8)), is_causal=True, heads=8, kv_heads=8),
    "spanning at one rate": Case(32, ((4, 2), (16, 4), (32, 4)), heads=4, kv_heads=4, batch=2),
    "spanning at two rates": Case(64, ((8, 2), (32, 4), (64, 8)), is_causal=True, heads=4, kv_heads=4),
    "many offsets, heads and batches": Case(32, ((32, 2),), heads=8, kv_heads=8, batch=3),
    "grouped heads at several rates": Case(32, ((8, 1), (16, 4), (32, 4)), True, heads=8, kv_heads=2),
    "two dense branches": Case(16, ((4, 1), (16, 1)), is_causal=True, heads=4, kv_heads=2),
}


@contextmanager
def fused() -> Iterator[None]:
    """Let fused kernels serve on the CPU, and fail if another path is taken."""
    with (
        patch("attention_gate.impls.fused.kernels.objection", lambda *_: None),
        patch("attention_gate.impls.fused.kernels.least_rows", 1),
        patch("attention_gate.impls.fused.plan.least_elements", 0),
        patch("attention_gate.impls.autograd._Attend.apply", None),
    ):
        yield


def run_fused(rank: int, implementation: str, case: Case) -> dict[str, np.ndarray]:
    """Run a case for which fused kernels serve, and fail if another path is taken."""
    with fused():
        return run_case(rank, implementation, case)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", CASES)
def test_fused_kernels_compute_the_same(implementation: str, name: str, size: int) -> None:
    assert_close(results(size, run_fused, implementation, CASES[name]), CASES[name])


def run_and_count_parts(rank: int, implementation: str, case: Case) -> list[int]:
    """Return in how many parts the rows of each pass travelled."""
    parts = []

    def watched(*arguments: Any) -> Pipeline:
        pipeline = Pipeline(*arguments)
        parts.append(pipeline.parts)
        return pipeline

    with patch("attention_gate.impls.fused.engine.Pipeline", watched):
        run_fused(rank, implementation, case)
    return parts


def test_robusts_rows_travel_in_parts_and_collectives_all_at_once() -> None:
    assert results(2, run_and_count_parts, "robust", CASES["dense causal"]) == [[2, 2]] * 2
    assert results(2, run_and_count_parts, "collective", CASES["dense causal"]) == [[1, 1]] * 2


def run_zigzag(rank: int, case: Case, is_fused: bool) -> dict[str, np.ndarray]:
    size = dist.get_world_size()
    layout = Layout(case.length, size, rank, case.heads, case.kv_heads, (), case.is_causal)
    rows = [row for part in layout.zigzag(rank) for row in part]
    *inputs, grad_out = (torch.from_numpy(array[:, rows].copy()) for array in whole(case))
    for tensor in inputs:
        tensor.requires_grad_()
    objection: Any = (lambda *_: None) if is_fused else (lambda *_: "not here")
    with (
        patch("attention_gate.impls.fused.kernels.objection", objection),
        patch("attention_gate.impls.fused.kernels.least_rows", 1),
        patch("attention_gate.impls.fused.plan.least_elements", 0),
    ):
        out, lse = attend("robust")(
            *inputs, sequence_length=case.length, layout="zigzag", return_lse=True, **case.options
        )
        out.backward(grad_out)
    return {"rows": np.array(rows, dtype=int), **collect(out, lse, *inputs)}


def assert_zigzag(answers: list[dict[str, np.ndarray]], case: Case) -> None:
    for name, right in expected(case).items():
        for answer in answers:
            mine = right[:, :, answer["rows"]] if name == "lse" else right[:, answer["rows"]]
            np.testing.assert_allclose(answer[name], mine, rtol=0, atol=1e-12)


@pytest.mark.parametrize("is_fused", [False, True])
@pytest.mark.parametrize("size", [1, 2, 3])
@pytest.mark.parametrize("case", [CASES["dense causal"], Case(18, ((7, 2), (18, 1)), is_causal=True), Case(5), Case(2)])
def test_the_zigzag_layout(case: Case, size: int, is_fused: bool) -> None:
    assert_zigzag(results(size, run_zigzag, case, is_fused), case)


def run_zigzag_under_a_default_device(rank: int, case: Case) -> dict[str, np.ndarray]:
    with torch.device("meta"):
        return run_zigzag(rank, case, False)


def test_a_default_device_does_not_reach_the_zigzag_layout() -> None:
    case = Case(17, ((6, 2), (17, 1)), is_causal=True)  # of no other test, whose plan would be kept
    assert_zigzag(results(2, run_zigzag_under_a_default_device, case), case)
