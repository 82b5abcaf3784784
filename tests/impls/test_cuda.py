"""Fused kernels on a GPU, in a world of one: against plain products in float32, and what only a GPU can get wrong."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attention_gate import impls
from tests.impls.cases import IMPLEMENTATIONS, attend

if not torch.cuda.is_available():
    pytest.skip("there is no GPU", allow_module_level=True)

Shape = tuple[int, int, int, int, int]  # rows, heads, kv_heads, head_dim, value_dim
SHAPES: dict[str, tuple[Shape, dict[str, Any]]] = {
    "dense": ((256, 4, 4, 64, 64), {"segment_lengths": [256], "dilation_rates": [1]}),
    "dense causal, grouped": (
        (256, 8, 2, 128, 64),
        {"segment_lengths": [256], "dilation_rates": [1], "is_causal": True},
    ),
    "branches": ((1024, 8, 8, 64, 64), {"segment_lengths": [128, 512, 1024], "dilation_rates": [1, 4, 16]}),
    "large enough for the merging kernels": (
        (4096, 8, 8, 64, 64),
        {"segment_lengths": [512, 4096], "dilation_rates": [1, 8], "is_causal": True},
    ),
    "branches, grouped": ((1024, 8, 2, 64, 64), {"segment_lengths": [128, 512, 1024], "dilation_rates": [1, 4, 8]}),
    "narrow": ((128, 2, 2, 8, 24), {"segment_lengths": [128], "dilation_rates": [1]}),
}


def made(shape: Shape, dtype: torch.dtype, batch: int = 2) -> list[Tensor]:
    rows, heads, kv_heads, head_dim, value_dim = shape
    source = torch.Generator("cuda").manual_seed(0)
    sizes = (heads, head_dim), (kv_heads, head_dim), (kv_heads, value_dim), (heads, value_dim)
    tensors = [torch.randn((batch, rows, *size), generator=source, device="cuda").to(dtype) for size in sizes]
    return [tensor.requires_grad_(place < 3) for place, tensor in enumerate(tensors)]


def run(implementation: str, tensors: list[Tensor], options: dict[str, Any], kernels: str) -> list[Tensor]:
    query, key, value, upstream = tensors
    with impls.kernels(kernels):
        out, lse = attend(implementation)(query, key, value, return_lse=True, **options)
    return [out, lse, *torch.autograd.grad(out, (query, key, value), upstream)]


def check(found: list[Tensor], tensors: list[Tensor], options: dict[str, Any], dtype: torch.dtype) -> None:
    exact = [tensor.detach().float().requires_grad_(tensor.requires_grad) for tensor in tensors]
    right = run("robust", exact, options, "plain")
    unit = torch.finfo(dtype).eps
    for name, mine, wanted in zip(("out", "lse", "query", "key", "value"), found, right, strict=True):
        error = (mine.float() - wanted).square().mean().sqrt() / wanted.square().mean().sqrt()
        assert error < 4 * unit, f"{name}: {error:.2e}"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", SHAPES)
def test_fused_kernels_compute_the_same(name: str, implementation: str, dtype: torch.dtype) -> None:
    shape, options = SHAPES[name]
    tensors = made(shape, dtype)
    assert impls.path_for(*tensors[:3], **options).kernels == "fused"
    check(run(implementation, tensors, options, "fused"), tensors, options, dtype)


def test_rows_that_begin_anywhere_in_their_storage_and_lie_in_any_order() -> None:
    shape, options = SHAPES["dense causal, grouped"]
    tensors = made(shape, torch.bfloat16)
    shifted = []
    for tensor in tensors:
        storage = torch.empty(tensor.numel() + 1, dtype=tensor.dtype, device="cuda")
        moved = storage[1:].view(tensor.shape)
        moved.copy_(tensor.detach())
        shifted.append(moved.requires_grad_(tensor.requires_grad))
    check(run("robust", shifted, options, "fused"), tensors, options, torch.bfloat16)
    heads_first = [tensor.detach().transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors]
    heads_first = [tensor.requires_grad_(place < 3) for place, tensor in enumerate(heads_first)]
    check(run("robust", heads_first, options, "fused"), tensors, options, torch.bfloat16)


def test_gradients_do_not_depend_on_how_the_tensors_of_earlier_calls_lay() -> None:
    """What torch keeps of one backward pass it would use for the next, whose upstream gradient lies otherwise."""
    shape, options = SHAPES["dense"]
    *tensors, upstream = made(shape, torch.bfloat16, 1)
    rows, heads, _, _, value_dim = shape
    wide = torch.empty((1, rows, heads, 2 * value_dim), dtype=torch.bfloat16, device="cuda")[..., :value_dim]
    heads_first = torch.empty((1, heads, rows, value_dim), dtype=torch.bfloat16, device="cuda").transpose(1, 2)
    for lying in (upstream, heads_first.copy_(upstream), wide.copy_(upstream)):
        out = F.scaled_dot_product_attention(*(tensor.transpose(1, 2) for tensor in tensors)).transpose(1, 2)
        torch.autograd.grad(out, tensors, upstream)
        check(run("robust", [*tensors, lying], options, "fused"), [*tensors, lying], options, torch.bfloat16)


def test_two_forward_passes_before_two_backward_passes_on_another_stream() -> None:
    shape, options = SHAPES["large enough for the merging kernels"]
    first, second = made(shape, torch.bfloat16, 1), [-tensor.detach() for tensor in made(shape, torch.bfloat16, 1)]
    second = [tensor.requires_grad_(place < 3) for place, tensor in enumerate(second)]
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        pairs = [attend("robust")(*tensors[:3], return_lse=True, **options) for tensors in (first, second)]
        grads = [
            torch.autograd.grad(out, tensors[:3], tensors[3])
            for (out, _), tensors in zip(pairs, (first, second), strict=True)
        ]
    torch.cuda.current_stream().wait_stream(stream)
    for pair, gradients, tensors in zip(pairs, grads, (first, second), strict=True):
        check([*pair, *gradients], tensors, options, torch.bfloat16)


def test_float32_and_wide_heads_take_plain_products() -> None:
    options = SHAPES["dense"][1]
    assert "torch.float32" in impls.path_for(*made((256, 4, 4, 64, 64), torch.float32)[:3], **options).because
    wide = made((256, 4, 4, 136, 64), torch.bfloat16)
    assert "head_dim 136" in impls.path_for(*wide[:3], **options).because
    check(run("robust", wide, options, "auto"), wide, options, torch.bfloat16)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("is_causal", [False, True])
def test_scores_far_below_zero_whatever_the_number_of_keys(is_causal: bool, dtype: torch.dtype) -> None:
    """A kernel that takes absent keys for keys of score 0 gives them the weight exp(-lse), which overflows."""
    for rows in (64, 72, 96, 120, 128, 136, 192, 200, 256, 320):
        *tensors, upstream = made((rows, 2, 2, 64, 64), dtype, 1)
        query, key, value = (tensor.detach() for tensor in tensors)
        query[..., 0], key[..., 0] = -400.0, 4.0
        tensors = [*(tensor.requires_grad_() for tensor in (query, key, value)), upstream]
        options = {"segment_lengths": [rows], "dilation_rates": [1], "is_causal": is_causal, "scale": 0.08}
        found = run("robust", tensors, options, "cudnn")
        assert found[1].max() < -100.0
        check(found, tensors, options, dtype)
