"""Fused kernels on two GPUs, over NCCL and shared memory: right whichever rank is late, as no rank reads too early."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pkgutil import resolve_name
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist

from attention_gate import impls
from attention_gate.impls.fused import kernels, symmetric
from attention_gate.impls.tiling import Layout
from tests.impls.cases import IMPLEMENTATIONS, Case, attend, expected, shard_of, whole
from tests.impls.worlds import results

if torch.cuda.device_count() < 2 or not torch.cuda.can_device_access_peer(0, 1):
    pytest.skip("there are no two GPUs that share memory", allow_module_level=True)
if objection := kernels.objection(torch.device("cuda", 0), torch.bfloat16, 16, 8):
    pytest.skip(objection, allow_module_level=True)

SIZES: dict[str, Any] = {"heads": 4, "kv_heads": 4, "head_dim": 16, "value_dim": 8, "dtype": "bfloat16"}
DENSE = Case(256, ((256, 1),), **SIZES)
CASES = {
    "dense": DENSE,
    "dense causal, grouped": Case(256, ((256, 1),), True, **SIZES | {"heads": 8, "kv_heads": 4}),
    "several batches": Case(256, ((256, 1),), True, 3, **SIZES),
    "nested branches": Case(512, ((128, 1), (256, 4), (512, 4)), **SIZES),
    "nested branches, grouped": Case(512, ((128, 1), (256, 4), (512, 4)), **SIZES | {"heads": 8, "kv_heads": 2}),
    "spanning at two rates, causal": Case(1024, ((512, 1), (1024, 4), (1024, 8)), True, **SIZES),
}
LATE = 10_000_000  # cycles, about five milliseconds


def rows_of(case: Case, rank: int, layout: str) -> list[int]:
    """Return the positions of a rank's rows."""
    if layout == "contiguous":
        return list(range(case.length)[shard_of(case.length, 2, rank)])
    made = Layout(case.length, 2, rank, case.heads, case.kv_heads, (), case.is_causal)
    return [row for part in made.zigzag(rank) for row in part]


def assert_right(rank: int, found: dict[str, np.ndarray], case: Case, layout: str, what: object = "") -> None:
    """Assert that this rank's rows are the oracle's but for a few roundings."""
    rows = rows_of(case, rank, layout)
    for name, right in expected(case).items():
        mine = right[:, :, rows] if name == "lse" else right[:, rows]
        assert np.isfinite(found[name]).all(), (name, what)
        error = np.sqrt(np.square(found[name] - mine).mean() / np.square(mine).mean())
        assert error < 4 * 2**-7, (name, error, what)


def begin(rank: int, implementation: str, case: Case, layout: str) -> Callable[[], dict[str, np.ndarray]]:
    """Run the forward pass, and return what runs the backward pass and returns this rank's rows of everything."""
    rows = rows_of(case, rank, layout)
    *inputs, grad_out = (torch.from_numpy(array[:, rows].copy()).to("cuda", torch.bfloat16) for array in whole(case))
    for tensor in inputs:
        tensor.requires_grad_()
    torch.cuda.synchronize()  # what follows may run on another stream
    with impls.kernels("fused"):
        out, lse = attend(implementation)(
            *inputs, sequence_length=case.length, layout=layout, return_lse=True, **case.options
        )

    def end() -> dict[str, np.ndarray]:
        grads = torch.autograd.grad(out, inputs, grad_out)
        tensors = dict(zip(("out", "lse", "grad_query", "grad_key", "grad_value"), (out, lse, *grads), strict=True))
        return {name: tensor.detach().double().cpu().numpy() for name, tensor in tensors.items()}

    return end


def run(rank: int, implementation: str, case: Case, layout: str, shares: bool, in_parts: bool) -> None:
    with ExitStack() as stack:
        stack.enter_context(patch.object(symmetric, "is_wanted", shares))
        stack.enter_context(patch.object(symmetric, "_shared", type(symmetric._shared)()))
        if in_parts:
            stack.enter_context(patch("attention_gate.impls.fused.plan.least_elements", 0))
        for seed in range(3):
            one = Case(**vars(case) | {"seed": seed})
            assert_right(rank, begin(rank, implementation, one, layout)(), one, layout)
        held = symmetric.held_bytes()
        assert (held > 0) == shares
        assert held % (2 << 20) == 0


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("shares", [False, True])
@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", CASES)
def test_two_ranks_compute_the_same(name: str, implementation: str, shares: bool, in_parts: bool) -> None:
    results(2, run, implementation, CASES[name], "contiguous", shares, in_parts, device="cuda")


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("shares", [False, True])
def test_the_zigzag_layout(shares: bool, in_parts: bool) -> None:
    results(2, run, "robust", CASES["dense causal, grouped"], "zigzag", shares, in_parts, device="cuda")


def sleep() -> None:
    torch.cuda._sleep(LATE)


def after_sleep(function: Callable[..., Any], stream: str = "") -> Callable[..., Any]:
    """Return the function, to which the current stream, or that one of the workspace, comes late."""

    def late(*arguments: Any) -> Any:
        with torch.cuda.stream(getattr(arguments[0]._place, stream) if stream else torch.cuda.current_stream()):
            sleep()
        return function(*arguments)

    return late


def before_sleep(function: Callable[..., Any]) -> Callable[..., Any]:
    def early(*arguments: Any) -> Any:
        result = function(*arguments)
        sleep()
        return result

    return early


_TRANSPORT = "attention_gate.impls.fused.symmetric.SharedMemory"
DELAYS: dict[str, tuple[str, Callable[..., Callable[..., Any]]]] = {
    "rows are packed late": (f"{_TRANSPORT}.publish", after_sleep),
    "rows are fetched late": (f"{_TRANSPORT}.fetch", lambda function: after_sleep(function, "fetching")),
    "kernels run late": ("attention_gate.impls.fused.kernels.attend", after_sleep),
    "what kernels made comes late": ("attention_gate.impls.fused.kernels.attend", before_sleep),
    "gradients are made late": ("attention_gate.impls.fused.kernels.attend_backward", before_sleep),
    "gradients are sent home late": (f"{_TRANSPORT}.send_home", lambda function: after_sleep(function, "homing")),
    "sums are late": ("attention_gate.impls.fused.engine.add", after_sleep),
    "what sums made comes late": ("attention_gate.impls.fused.engine.add", before_sleep),
    "merges are late": ("attention_gate.impls.fused.engine.merge", after_sleep),
}


@contextmanager
def delayed(what: str) -> Iterator[None]:
    name, change = DELAYS[what]
    with patch(name, change(resolve_name(name))):
        yield


def run_late(rank: int, late: int, case: Case, layout: str) -> None:
    """Passes one after another, on two streams in turn, each of other values, a rank late in each way."""
    streams = [torch.cuda.Stream(), torch.cuda.Stream()]
    with patch("attention_gate.impls.fused.plan.least_elements", 0):
        for what in DELAYS:
            with delayed(what) if rank == late else ExitStack():
                ends = []
                for seed in range(3):
                    one = Case(**vars(case) | {"seed": seed})
                    with torch.cuda.stream(streams[seed % 2]):
                        ends.append((one, begin(rank, "robust", one, layout)))
                    if seed % 2:
                        continue  # the next forward pass comes before this one's backward pass
                    for number, (done, end) in enumerate(ends):
                        with torch.cuda.stream(streams[(seed + number) % 2]):
                            torch.cuda.current_stream().wait_stream(streams[(seed + number + 1) % 2])
                            assert_right(rank, end(), done, layout, what)
                    ends = []


@pytest.mark.parametrize("late", [0, 1])
@pytest.mark.parametrize(
    ("name", "layout"), [("dense", "contiguous"), ("nested branches", "contiguous"), ("several batches", "zigzag")]
)
def test_no_rank_reads_too_early_whichever_is_late(name: str, layout: str, late: int) -> None:
    results(2, run_late, late, CASES[name], layout, device="cuda")


def run_of_many_sizes(rank: int) -> None:
    """Memory that is shared grows where a call needs more, and serves smaller ones after that."""
    with patch.object(symmetric, "_shared", type(symmetric._shared)()):
        held = [0]
        for length in (256, 1024, 256, 16384, 512):
            case = Case(length, ((length, 1),), False, **SIZES | {"heads": 16, "kv_heads": 16, "head_dim": 64})
            if length > 1024:  # the oracle would take long; the next call shows what became of the memory
                shape = (1, length // 2, 16, 64)
                with impls.kernels("fused"):
                    attend("robust")(*(torch.zeros(shape, dtype=torch.bfloat16, device="cuda"),) * 3, **case.options)
            else:
                assert_right(rank, begin(rank, "robust", case, "contiguous")(), case, "contiguous", length)
            held.append(symmetric.held_bytes())
        assert held == sorted(held)
        assert held[1] < held[2] == held[3] < held[4] == held[5]


def test_shared_memory_grows_with_what_is_asked_for() -> None:
    results(2, run_of_many_sizes, device="cuda")


def run_inference_first(rank: int) -> None:
    """What is kept of a pass that tracks nothing must serve one that does."""
    with patch.object(symmetric, "_shared", type(symmetric._shared)()):
        shape = (1, 128, 4, 16)
        with torch.inference_mode(), impls.kernels("fused"):
            attend("robust")(*(torch.zeros(shape, dtype=torch.bfloat16, device="cuda"),) * 3, **DENSE.options)
        assert_right(rank, begin(rank, "robust", DENSE, "contiguous")(), DENSE, "contiguous")


def test_a_pass_in_inference_mode_leaves_nothing_that_hinders_another() -> None:
    results(2, run_inference_first, device="cuda")


def run_captured(rank: int, case: Case, layout: str, in_parts: bool) -> None:
    """Capture a forward and a backward pass of zeros, and replay them with other values, beside passes as usual."""
    rows = rows_of(case, rank, layout)
    shapes = [array[:, rows].shape for array in whole(case)]
    *inputs, grad_out = (torch.zeros(shape, dtype=torch.bfloat16, device="cuda") for shape in shapes)
    for tensor in inputs:
        tensor.requires_grad_()

    def both() -> list[torch.Tensor]:
        out, lse = attend("robust")(
            *inputs, sequence_length=case.length, layout=layout, return_lse=True, **case.options
        )
        return [out, lse, *torch.autograd.grad(out, inputs, grad_out)]

    with ExitStack() as stack:
        stack.enter_context(impls.kernels("fused"))
        stack.enter_context(patch.object(symmetric, "_shared", type(symmetric._shared)()))
        if in_parts:
            stack.enter_context(patch("attention_gate.impls.fused.plan.least_elements", 0))
        beside = torch.cuda.Stream()
        with torch.cuda.stream(beside):
            for _ in range(3):
                both()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            tensors = both()
        for seed in range(3):
            one = Case(**vars(case) | {"seed": seed})
            with torch.no_grad():
                for tensor, array in zip((*inputs, grad_out), whole(one), strict=True):
                    tensor.copy_(torch.from_numpy(array[:, rows].copy()))
            for _ in range(2):  # one replay upon the other
                graph.replay()
            names = ("out", "lse", "grad_query", "grad_key", "grad_value")
            found = {name: each.detach().double().cpu().numpy() for name, each in zip(names, tensors, strict=True)}
            assert_right(rank, found, one, layout, "captured")
            assert_right(rank, begin(rank, "robust", one, layout)(), one, layout, "after a replay")
        assert symmetric.held_bytes() > 0


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize(
    ("name", "layout"),
    [("nested branches", "contiguous"), ("dense causal, grouped", "contiguous"), ("several batches", "zigzag")],
)
def test_passes_can_be_captured_in_a_cuda_graph(name: str, layout: str, in_parts: bool) -> None:
    results(2, run_captured, CASES[name], layout, in_parts, device="cuda")


def run_in_groups(rank: int) -> None:
    """Two groups of the same ranks, each with memory of its own, and the same one for None as for the world."""
    other = dist.new_group([0, 1])
    one, two = DENSE, Case(**vars(DENSE) | {"seed": 1})
    for case, group in ((one, None), (two, other), (one, dist.group.WORLD), (two, other)):
        *inputs, _ = (
            torch.from_numpy(array[:, rows_of(case, rank, "contiguous")].copy()).to("cuda", torch.bfloat16)
            for array in whole(case)
        )
        with impls.kernels("fused"):
            out = attend("robust")(*inputs, group=group, **case.options)
        right = expected(case)["out"][:, rows_of(case, rank, "contiguous")]
        assert np.abs(out.double().cpu().numpy() - right).max() < 0.1
    shared = [symmetric._shared[each] for each in (dist.group.WORLD, other)]  # type: ignore[index]
    assert all(isinstance(each, symmetric.Workspace) for each in shared)
    assert shared[0] is not shared[1]


def test_each_group_has_memory_of_its_own() -> None:
    results(2, run_in_groups, device="cuda")
