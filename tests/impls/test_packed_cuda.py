"""Packed sequences on GPUs: each library's kernels against plain products, and whole calls on one and two GPUs."""

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate import impls
from attention_gate.impls import document_zigzag, robust
from attention_gate.impls.fused import flash_packed, packed_kernels, symmetric, torch_packed
from attention_gate.impls.fused.sequences import Sequences
from tests.impls.worlds import results

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

ROWS, HEADS, KV_HEADS, DIM = 512, 4, 2, 64
OPTIONS: dict[str, dict[str, Any]] = {
    "a window": {"window": (100, 0)},
    "a window to both sides": {"window": (70, 90)},
    "documents": {"document_lengths": [100, 1, 0, 211, 200], "is_causal": True},
    "documents, not causal": {"document_lengths": [100, 1, 0, 211, 190]},
    "a window in documents": {"document_lengths": [300, 212], "window": (64, 0)},
    "documents and a sink": {"document_lengths": [400, 100], "sink": True, "is_causal": True},
    "a cap": {"softcap": 2.0, "is_causal": True},
    "documents and a cap": {"softcap": 2.0, "document_lengths": [100, 412]},
}


@pytest.mark.parametrize("times", [1, 4])
@pytest.mark.parametrize("bounds", [(None, None), (None, 0), (130, 0), (130, 3), (None, 3)])
@pytest.mark.parametrize("has_several", [False, True])
@pytest.mark.parametrize("softcap", [None, 1.5])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("module", [torch_packed, flash_packed], ids=lambda module: module.NAME)
def test_kernels_agree_with_plain_products(
    module: Any,
    dtype: torch.dtype,
    softcap: float | None,
    has_several: bool,
    bounds: tuple[int | None, int | None],
    times: int,
) -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    if reason := module.objection(device, dtype, DIM, DIM, softcap):
        pytest.skip(reason)
    queries, keys = ((152, 1, 175), (280, 1, 401)) if has_several else ((328,), (456,))
    call = Sequences((), (), queries, keys, *bounds)
    error = packed_kernels._largest_error(module, device, dtype, DIM, DIM, softcap, times, call)
    assert error < packed_kernels.TOLERANCE


def made(seed: int, rows: int = ROWS) -> list[Tensor]:
    """query, key, value, the upstream gradient and the sink of the whole sequence, the same on all ranks."""
    source = torch.Generator().manual_seed(seed)
    shapes = ((HEADS, DIM), (KV_HEADS, DIM), (KV_HEADS, DIM), (HEADS, DIM))
    tensors = [torch.randn((2, rows, *shape), generator=source).bfloat16().cuda() for shape in shapes]
    return [*tensors, torch.randn(HEADS, generator=source).cuda()]


def attended(
    tensors: list[Tensor], options: dict[str, Any], kernels: str, rows: list[int] | None = None, **more: Any
) -> list[Tensor]:
    """out, lse and gradients of these rows, of the sink too if there is one."""
    *shards, sink = (tensor.detach() for tensor in tensors)
    query, key, value, upstream = (shard if rows is None else shard[:, rows] for shard in shards)
    inputs = [query.requires_grad_(), key.requires_grad_(), value.requires_grad_()]
    given = options | {"segment_lengths": [ROWS], "dilation_rates": [1]}
    if "sink" in options:
        given["sink"] = sink.requires_grad_()
        inputs.append(sink)
    with impls.kernels(kernels):
        out, lse = robust.attend(query, key, value, return_lse=True, **given, **more)
    return [out.detach(), lse, *torch.autograd.grad(out, inputs, upstream)]


def assert_close(found: list[Tensor], right: list[Tensor], what: object = "") -> None:
    for name, mine, wanted in zip(("out", "lse", "query", "key", "value", "sink"), found, right, strict=False):
        assert mine.isfinite().equal(wanted.isfinite()), (name, what)
        mine, wanted = (each[wanted.isfinite()].float() for each in (mine, wanted))
        error = (mine - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
        assert error < 4 * 2**-7, (name, float(error), what)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_call_computes_the_same(name: str) -> None:
    options = OPTIONS[name]
    tensors = made(0)
    path = impls.path_for(*tensors[:3], segment_lengths=[ROWS], dilation_rates=[1], **_shown(options, tensors))
    if path.kernels != "fused":
        pytest.skip(path.because)
    right = attended([tensor.float() for tensor in tensors], options, "plain")
    assert_close(attended(tensors, options, "fused"), right)


def _shown(options: dict[str, Any], tensors: list[Tensor]) -> dict[str, Any]:
    return options | ({"sink": tensors[-1]} if "sink" in options else {})


def run_on_two(rank: int, name: str, layout: str, shares: bool, in_parts: bool) -> str:
    """Compare with plain products of the whole sequence; return why fused kernels do not serve, if they do not."""
    options = OPTIONS[name]
    halves = ROWS // 4
    rows = list(range(rank * ROWS // 2, (rank + 1) * ROWS // 2))
    if layout == "zigzag":
        rows = [*range(rank * halves, (rank + 1) * halves), *range((3 - rank) * halves, (4 - rank) * halves)]
    if layout == "document-zigzag":
        rows = document_zigzag(rank, 2, options["document_lengths"], ROWS)
    with ExitStack() as stack:
        stack.enter_context(patch.object(symmetric, "is_wanted", shares))
        stack.enter_context(patch.object(symmetric, "_shared", type(symmetric._shared)()))
        if in_parts:
            stack.enter_context(patch("attention_gate.impls.fused.plan.least_elements", 0))
        for seed in range(3):
            tensors = made(seed)
            own = [tensor[:, rows] for tensor in tensors[:3]]
            given = _shown(options, tensors) | {"sequence_length": ROWS, "layout": layout}
            path = impls.path_for(*own, segment_lengths=[ROWS], dilation_rates=[1], **given)
            if path.kernels != "fused":
                return path.because
            found = attended(tensors, options, "fused", rows, sequence_length=ROWS, layout=layout)
            alone = dist.new_group([0]), dist.new_group([1])
            right = attended([tensor.float() for tensor in tensors], options, "plain", group=alone[rank])
            right = [each[:, :, rows] if place == 1 else each[:, rows] for place, each in enumerate(right[:5])]
            assert_close(found[:5], right, (rank, seed))
    return ""


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("layout", ["contiguous", "zigzag", "document-zigzag"])
@pytest.mark.parametrize("name", OPTIONS)
def test_two_ranks_compute_the_same(name: str, layout: str, shares: bool, in_parts: bool) -> None:
    if torch.cuda.device_count() < 2:
        pytest.skip("there are no two GPUs")
    if layout == "document-zigzag" and "document_lengths" not in OPTIONS[name]:
        pytest.skip("it shares documents, and there are none")
    reasons = set(results(2, run_on_two, name, layout, shares, in_parts, device="cuda"))
    if reasons != {""}:
        pytest.skip("; ".join(reasons))
