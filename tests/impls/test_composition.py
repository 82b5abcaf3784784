"""With what models are trained by: FSDP2 on a mesh of data and sequence, activation checkpointing, torch.compile."""

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.utils.checkpoint import checkpoint

from attention_gate import reference
from tests.impls.cases import IMPLEMENTATIONS, Case, assert_close, attend, collect, own_tensors, shard_of
from tests.impls.worlds import Raised, world

pytestmark = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

CASE = Case(11, ((4, 1), (11, 2)), is_causal=True, heads=4, kv_heads=2)


#: Seconds: the first use of torch.compile and of FSDP2 in a process imports much of torch.
PATIENCE = 300.0


def results(size: int, function: Any, *arguments: Any) -> list[Any]:
    """Run on a world of this size and return each rank's result; fail with the trace of a rank that raised."""
    answers = world(size).run(function, *arguments, deadline=PATIENCE)
    raised = [f"rank {rank}: {answer.trace}" for rank, answer in enumerate(answers) if isinstance(answer, Raised)]
    assert not raised, "\n".join(raised)
    return answers


def run_checkpointed(rank: int, implementation: str, case: Case, reentrant: bool) -> dict[str, Any]:
    """The forward pass is run again in the backward pass, with all its communication."""
    *inputs, grad_out = own_tensors(case, dist.get_world_size(), rank)

    def call(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        pair: tuple[Tensor, Tensor] = attend(implementation)(
            query, key, value, sequence_length=case.length, return_lse=True, **case.options
        )
        return pair

    out, lse = checkpoint(call, *inputs, use_reentrant=reentrant)
    out.backward(grad_out)
    return collect(out, lse, *inputs)


@pytest.mark.parametrize("reentrant", [False, True])
def test_under_activation_checkpointing(implementation: str, reentrant: bool) -> None:
    assert_close(results(3, run_checkpointed, implementation, CASE, reentrant), CASE)


def run_compiled(rank: int, implementation: str, case: Case) -> dict[str, Any]:
    """A compiled caller with work of its own before and after the attention, called twice."""
    from torch._dynamo.utils import counters

    torch.compiler.reset()
    counters.clear()
    compiled = torch.compile(caller_of(implementation, case), backend="aot_eager")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for _ in range(2):
            *inputs, grad_out = own_tensors(case, dist.get_world_size(), rank)
            out, lse = compiled(*inputs)
            out.backward(grad_out)
    reported = {"graphs": counters["stats"]["unique_graphs"], "warnings": [str(warning.message) for warning in warned]}
    return collect(out, lse, *inputs) | reported


def caller_of(implementation: str, case: Case) -> Callable[..., tuple[Tensor, Tensor]]:
    attention = attend(implementation)

    def caller(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        tensors = (query * 2 / 2, key * 2 / 2, value * 2 / 2)
        out, lse = attention(*tensors, sequence_length=case.length, return_lse=True, **case.options)
        return out * 2 / 2, lse

    return caller


def test_under_torch_compile(implementation: str) -> None:
    answers = results(2, run_compiled, implementation, CASE)
    assert_close(answers, CASE)
    assert [answer["graphs"] for answer in answers] == [2, 2], "one graph before the attention, and one after it"
    assert [answer["warnings"] for answer in answers] == [[], []]


def run_in_one_graph(rank: int, implementation: str, case: Case) -> str:
    torch.compiler.reset()
    compiled = torch.compile(caller_of(implementation, case), backend="aot_eager", fullgraph=True)
    *inputs, _ = own_tensors(case, dist.get_world_size(), rank)
    try:
        compiled(*inputs)
    except torch._dynamo.exc.Unsupported as error:
        return str(error)
    return ""


def test_a_caller_that_allows_one_graph_only_learns_what_ends_it(implementation: str) -> None:
    for reported in results(2, run_in_one_graph, implementation, CASE):
        assert "one graph ends where it is called" in reported
        assert "out, lse = attention(*tensors" in reported


class Layer(nn.Module):
    """Projections around the attention; its sequence is sharded over a group."""

    def __init__(self, implementation: str, case: Case, group: dist.ProcessGroup) -> None:
        super().__init__()
        self.implementation, self.case, self.group = implementation, case, group
        weights = projections(case)
        self.query, self.key, self.value = (nn.Parameter(torch.from_numpy(weight)) for weight in weights)

    def forward(self, x: Tensor) -> Tensor:
        case = self.case
        query = (x @ self.query).unflatten(-1, (case.heads, case.head_dim))
        key = (x @ self.key).unflatten(-1, (case.kv_heads, case.head_dim))
        value = (x @ self.value).unflatten(-1, (case.kv_heads, case.value_dim))
        out: Tensor = attend(self.implementation)(
            query, key, value, sequence_length=case.length, group=self.group, **case.options
        )
        return out.clone()  # FSDP2 warns of a module that returns a view


WIDTH = 6


def projections(case: Case) -> list[np.ndarray]:
    source = np.random.default_rng(7)
    widths = (case.heads * case.head_dim, case.kv_heads * case.head_dim, case.kv_heads * case.value_dim)
    return [source.normal(size=(WIDTH, width)) / 2 for width in widths]


def sample(case: Case, number: int) -> tuple[np.ndarray, np.ndarray]:
    """One sequence of the batch, and the gradient of its output."""
    source = np.random.default_rng(100 + number)
    shape = (1, case.length, case.heads, case.value_dim)
    return source.normal(size=(1, case.length, WIDTH)), source.normal(size=shape)


def run_sharded(rank: int, implementation: str, case: Case, recompute: bool) -> dict[str, np.ndarray]:
    """Two sequences, each over two ranks; the parameters are sharded over all four."""
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "sequence"))
    layer = Layer(implementation, case, mesh["sequence"].get_group())
    fully_shard(layer, mesh=mesh["data", "sequence"]._flatten("all"))
    assert isinstance(layer, FSDPModule)
    layer.set_gradient_divide_factor(1.0)  # the sum over all rows of all sequences, as the oracle gives it
    x, grad_out = sample(case, mesh.get_local_rank("data"))
    rows = shard_of(case.length, 2, mesh.get_local_rank("sequence"))
    own = torch.from_numpy(x[:, rows].copy()).requires_grad_()
    out = checkpoint(layer, own, use_reentrant=False) if recompute else layer(own)
    out.backward(torch.from_numpy(grad_out[:, rows].copy()))
    return {name: parameter.grad.full_tensor().numpy() for name, parameter in layer.named_parameters()}


@pytest.mark.parametrize("recompute", [False, True])
def test_inside_fsdp_on_a_mesh_of_data_and_sequence(implementation: str, recompute: bool) -> None:
    right = dict.fromkeys(("query", "key", "value"), 0.0)
    for number in range(2):
        x, grad_out = sample(CASE, number)
        shapes = ((CASE.heads, CASE.head_dim), (CASE.kv_heads, CASE.head_dim), (CASE.kv_heads, CASE.value_dim))
        inputs = [(x @ w).reshape(1, CASE.length, *s) for w, s in zip(projections(CASE), shapes, strict=True)]
        gradients = reference.dilated_attention_gradients(*inputs, grad_out, **CASE.options)
        for name, gradient in zip(right, gradients, strict=True):
            right[name] = right[name] + x[0].T @ gradient.reshape(CASE.length, -1)
    for answer in results(4, run_sharded, implementation, CASE, recompute):
        for name, expected in right.items():
            np.testing.assert_allclose(answer[name], expected, rtol=0, atol=1e-12 * np.abs(expected).max())
