"""Both as operators of autograd: any strides, any upstream gradient, any inputs that require gradients, any order."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.impls.cases import IMPLEMENTATIONS, Case, assert_close, attend, collect, expected, own_tensors, shard_of
from tests.impls.worlds import Raised, results, world

pytestmark = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

CASE = Case(11, ((4, 1), (11, 2)), is_causal=True, batch=2, heads=4, kv_heads=2)
OTHER = Case(11, ((5, 3), (11, 1)), batch=2, heads=2, kv_heads=1, seed=7)

Answer = dict[str, np.ndarray]


def start(implementation: str, case: Case, *inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return attend(implementation)(*inputs, sequence_length=case.length, return_lse=True, **case.options)


def tensors(case: Case, rank: int) -> list[torch.Tensor]:
    return own_tensors(case, dist.get_world_size(), rank)


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    """Return an equal tensor whose dimensions lie in memory in the reverse order."""
    order = list(range(tensor.ndim))[::-1]
    return tensor.permute(order).contiguous().permute(order)


def sparse(tensor: torch.Tensor) -> torch.Tensor:
    """Return an equal tensor with gaps between its elements."""
    return torch.stack((tensor, torch.full_like(tensor, float("nan"))), -1)[..., 0]


@pytest.mark.parametrize("restride", [transposed, sparse])
def test_any_strides(implementation: str, restride: Callable[[torch.Tensor], torch.Tensor]) -> None:
    assert_close(results(3, run_restrided, implementation, restride), CASE)


def run_restrided(rank: int, implementation: str, restride: Callable[[torch.Tensor], torch.Tensor]) -> Answer:
    *inputs, grad_out = tensors(CASE, rank)
    out, lse = start(implementation, CASE, *(restride(tensor) for tensor in inputs))
    out.backward(restride(grad_out))
    return collect(out, lse, *inputs)


def test_a_gradient_of_one_number_expanded_over_everything(implementation: str) -> None:
    answers = results(3, run_summed, implementation)
    for name, right in zip(("grad_query", "grad_key", "grad_value"), gradients_of_the_sum(), strict=True):
        rows = np.concatenate([answer[name] for answer in answers], axis=1)
        np.testing.assert_allclose(rows, right, rtol=0, atol=1e-12)


def run_summed(rank: int, implementation: str) -> Answer:
    *inputs, _ = tensors(CASE, rank)
    out, lse = start(implementation, CASE, *inputs)
    out.sum().backward()
    return collect(out, lse, *inputs)


def gradients_of_the_sum() -> tuple[np.ndarray, ...]:
    from attention_gate import reference
    from tests.impls.cases import whole

    query, key, value, grad_out = whole(CASE)
    return tuple(reference.dilated_attention_gradients(query, key, value, np.ones_like(grad_out), **CASE.options))


def test_an_expanded_input(implementation: str) -> None:
    answers = results(2, run_expanded, implementation)
    assert answers == [True, True]


def run_expanded(rank: int, implementation: str) -> bool:
    """One head's keys expanded over all: the gradient of the one is the sum of the gradients of the copies."""
    query, key, value, grad_out = tensors(CASE, rank)
    narrow = key.detach()[:, :, :1].clone().requires_grad_()
    copies = narrow.detach().repeat(1, 1, CASE.kv_heads, 1).requires_grad_()
    for keys in (narrow.expand(-1, -1, CASE.kv_heads, -1), copies):
        start(implementation, CASE, query, keys, value)[0].backward(grad_out)
    assert narrow.grad is not None
    assert copies.grad is not None
    return torch.allclose(narrow.grad, copies.grad.sum(2, keepdim=True), rtol=0, atol=1e-13)


@pytest.mark.parametrize("wanted", [tuple(bool(bits >> place & 1) for place in range(3)) for bits in range(8)])
def test_any_subset_of_the_inputs_may_require_gradients(implementation: str, wanted: tuple[bool, ...]) -> None:
    assert_subset(results(3, run_subset, implementation, wanted), wanted, CASE)


def assert_subset(answers: list[dict], wanted: tuple[bool, ...], case: Case) -> None:
    for name, is_wanted in zip(("grad_query", "grad_key", "grad_value"), wanted, strict=True):
        if is_wanted:
            rows = np.concatenate([answer[name] for answer in answers], axis=1)
            np.testing.assert_allclose(rows, expected(case)[name], rtol=0, atol=1e-12, err_msg=name)
        else:
            assert {answer[name] for answer in answers} == {None}


def run_subset(
    rank: int, implementation: str, wanted: tuple[bool, ...], case: Case = CASE
) -> dict[str, np.ndarray | None]:
    *inputs, grad_out = tensors(case, rank)
    for tensor, is_wanted in zip(inputs, wanted, strict=True):
        tensor.requires_grad_(is_wanted)
    out, lse = start(implementation, case, *inputs)
    assert out.requires_grad == any(wanted)
    assert not lse.requires_grad
    if any(wanted):
        out.backward(grad_out)
    gradients = (None if tensor.grad is None else tensor.grad.numpy() for tensor in inputs)
    return dict(zip(("grad_query", "grad_key", "grad_value"), gradients, strict=True))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(implementation: str, mode: Callable[[], torch.no_grad]) -> None:
    answers = results(2, run_without_gradients, implementation, mode)
    np.testing.assert_allclose(np.concatenate(answers, axis=1), expected(CASE)["out"], rtol=0, atol=1e-12)


def run_without_gradients(rank: int, implementation: str, mode: Callable[[], torch.no_grad]) -> np.ndarray:
    with mode():
        *inputs, grad_out = tensors(CASE, rank)
        out, _ = start(implementation, CASE, *inputs)
        assert not out.requires_grad
    # What was cached in this mode must still serve in others.
    *inputs, grad_out = tensors(CASE, rank)
    start(implementation, CASE, *inputs)[0].backward(grad_out)
    return out.numpy()


def test_interleaved_calls(implementation: str) -> None:
    answers = results(3, run_interleaved, implementation)
    assert_close([first for first, _, _ in answers], CASE)
    assert_close([second for _, second, _ in answers], OTHER)
    assert_close([third for _, _, third in answers], CASE)


def run_interleaved(rank: int, implementation: str) -> tuple[Answer, Answer, Answer]:
    runs = []
    for case in (CASE, OTHER, CASE):
        *inputs, grad_out = tensors(case, rank)
        runs.append((inputs, grad_out, *start(implementation, case, *inputs)))
    for place in (1, 0, 2):
        _, grad_out, out, _ = runs[place]
        out.backward(grad_out)
    first, second, third = (collect(out, lse, *inputs) for inputs, _, out, lse in runs)
    return first, second, third


def test_inputs_used_twice_and_a_graph_kept(implementation: str) -> None:
    answers = results(3, run_twice, implementation)
    for name in ("grad_query", "grad_key", "grad_value"):
        rows = np.concatenate([answer[name] for answer in answers], axis=1)
        np.testing.assert_allclose(rows, 3 * expected(CASE)[name], rtol=0, atol=1e-12, err_msg=name)


def run_twice(rank: int, implementation: str) -> Answer:
    *inputs, grad_out = tensors(CASE, rank)
    out, lse = start(implementation, CASE, *inputs)
    again, _ = start(implementation, CASE, *inputs)
    (out + again).backward(grad_out, retain_graph=True)
    out.backward(grad_out)
    return collect(out, lse, *inputs)


def test_inputs_are_not_modified_and_results_are_no_views_of_them(implementation: str) -> None:
    assert results(1, run_untouched, implementation) + results(3, run_untouched, implementation) == [True] * 4


def run_untouched(rank: int, implementation: str) -> bool:
    *inputs, grad_out = tensors(CASE, rank)
    before = [tensor.detach().clone() for tensor in (*inputs, grad_out)]
    out, lse = start(implementation, CASE, *inputs)
    out.backward(grad_out)
    memory = {tensor.untyped_storage().data_ptr() for tensor in (*inputs, grad_out)}
    produced = (out, lse, *(tensor.grad for tensor in inputs))
    return all(map(torch.equal, before, (*inputs, grad_out))) and not any(
        tensor.untyped_storage().data_ptr() in memory for tensor in produced
    )


@pytest.mark.parametrize("dtype", ["float64", "float32", "bfloat16", "float16"])
def test_dtypes_and_shapes_of_results(implementation: str, dtype: str) -> None:
    lse_dtype = "float64" if dtype == "float64" else "float32"
    rows = shard_of(CASE.length, 3, 2)
    local_length = rows.stop - rows.start
    out, lse, *gradients = results(3, run_kinds, implementation, dtype)[2]
    assert out == (f"torch.{dtype}", (2, local_length, 4, 5), True)
    assert lse == (f"torch.{lse_dtype}", (2, 4, local_length), True)
    assert gradients == [
        (f"torch.{dtype}", (2, local_length, heads, dim), True) for heads, dim in ((4, 2), (2, 2), (2, 5))
    ]


def run_kinds(rank: int, implementation: str, dtype: str) -> list[tuple[str, tuple[int, ...], bool]]:
    *inputs, grad_out = tensors(Case(**{**vars(CASE), "dtype": dtype}), rank)
    out, lse = start(implementation, CASE, *inputs)
    out.backward(grad_out)
    produced = (out, lse, *(tensor.grad for tensor in inputs))
    return [(str(tensor.dtype), tuple(tensor.shape), tensor.is_contiguous()) for tensor in produced]


def test_a_second_derivative_is_refused(implementation: str) -> None:
    for answer in world(2).run(run_second_derivative, implementation):
        assert isinstance(answer, Raised)
        assert "once_differentiable" in answer.text


def run_second_derivative(rank: int, implementation: str) -> None:
    *inputs, grad_out = tensors(CASE, rank)
    out, _ = start(implementation, CASE, *inputs)
    (gradient,) = torch.autograd.grad(out, inputs[0], grad_out.requires_grad_(), create_graph=True)
    gradient.sum().backward()
