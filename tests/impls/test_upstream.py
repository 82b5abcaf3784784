"""What comes down to the attention from above in the backward pass, and what it gives; on both kinds of kernels."""

from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist

from attention_gate import reference
from attention_gate.impls import autograd
from tests.impls.cases import IMPLEMENTATIONS, Case, attend, own_tensors, shard_of, whole
from tests.impls.test_autograd import assert_subset, run_subset
from tests.impls.test_fused import fused
from tests.impls.worlds import results

CASE = Case(16, ((4, 1), (16, 1)), is_causal=True, heads=4, kv_heads=2, batch=2)

pytestmark = [
    pytest.mark.parametrize("implementation", IMPLEMENTATIONS),
    pytest.mark.parametrize("is_fused", [False, True]),
]


def path(is_fused: bool) -> AbstractContextManager:
    return fused() if is_fused else patch("attention_gate.impls.autograd._AttendFused.apply", None)


class Unused(torch.autograd.Function):
    """Passes its input on, and says in the backward pass that it has no gradient."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> None:
        return None


def run_unused(rank: int, implementation: str, is_fused: bool, unused: int) -> list[np.ndarray]:
    *inputs, grad_out = own_tensors(CASE, dist.get_world_size(), rank)
    with path(is_fused):
        out = attend(implementation)(*inputs, **CASE.options)
        (Unused.apply(out) if rank == unused else out).backward(grad_out)
    return [tensor.grad.numpy() for tensor in inputs]


@pytest.mark.parametrize("unused", [0, 1])
def test_a_rank_whose_result_nobody_uses_serves_the_others(implementation: str, is_fused: bool, unused: int) -> None:
    query, key, value, grad_out = whole(CASE)
    grad_out[:, shard_of(CASE.length, 2, unused)] = 0.0
    right = reference.dilated_attention_gradients(query, key, value, grad_out, **CASE.options)
    answers = results(2, run_unused, implementation, is_fused, unused)
    for name, rows, gradient in zip("qkv", zip(*answers, strict=True), right, strict=True):
        np.testing.assert_allclose(np.concatenate(rows, axis=1), gradient, rtol=0, atol=1e-12, err_msg=name)


def run_subset_of(rank: int, implementation: str, is_fused: bool, wanted: tuple[bool, ...]) -> dict[str, Any]:
    with path(is_fused):
        return run_subset(rank, implementation, wanted, CASE)


@pytest.mark.parametrize("wanted", [tuple(bool(bits >> place & 1) for place in range(3)) for bits in range(8)])
def test_any_subset_of_the_inputs_may_require_gradients(
    implementation: str, is_fused: bool, wanted: tuple[bool, ...]
) -> None:
    assert_subset(results(2, run_subset_of, implementation, is_fused, wanted), wanted, CASE)


def run_and_watch(rank: int, implementation: str, is_fused: bool) -> bool:
    function = autograd._AttendFused if is_fused else autograd._Attend
    backward, upstream = function.backward, []

    def watched(ctx: Any, *grads: torch.Tensor | None) -> Any:
        upstream.extend(grads)
        return backward(ctx, *grads)

    *inputs, grad_out = own_tensors(CASE, dist.get_world_size(), rank)
    with path(is_fused), patch.object(function, "backward", staticmethod(watched)):
        attend(implementation)(*inputs, return_lse=True, **CASE.options)[0].backward(grad_out)
    return torch.equal(upstream[0], grad_out) and upstream[1] is None


def test_no_zeros_are_made_in_place_of_a_gradient_of_lse(implementation: str, is_fused: bool) -> None:
    assert results(2, run_and_watch, implementation, is_fused) == [True, True]
