"""Groups of any of several GPUs, made and destroyed in any order: each shares memory, whatever was shared before."""

import random
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from attention_gate import impls
from attention_gate.impls.fused import kernels, symmetric
from tests.impls.cases import Case, attend, expected, shard_of, whole
from tests.impls.worlds import results, world

SIZE = min(torch.cuda.device_count(), 8)
if SIZE < 3 or not all(torch.cuda.can_device_access_peer(0, other) for other in range(1, SIZE)):
    pytest.skip("there are no three GPUs that share memory", allow_module_level=True)
if objection := kernels.objection(torch.device("cuda", 0), torch.bfloat16, 16, 8):
    pytest.skip(objection, allow_module_level=True)

SIZES: dict[str, Any] = {"heads": 4, "kv_heads": 4, "head_dim": 16, "value_dim": 8, "dtype": "bfloat16"}


def assert_attends(group: dist.ProcessGroup | None, members: Sequence[int], seed: int) -> None:
    """Assert that the group's ranks, which are these of the world, get right rows and gradients by shared memory."""
    size, rank = len(members), list(members).index(dist.get_rank())
    length = 128 * size
    case = Case(length, ((length, 1),), True, seed=seed, **SIZES)
    rows = shard_of(length, size, rank)
    *inputs, grad_out = (torch.from_numpy(array[:, rows].copy()).to("cuda", torch.bfloat16) for array in whole(case))
    for tensor in inputs:
        tensor.requires_grad_()
    with impls.kernels("fused"):
        out = attend("robust")(*inputs, group=group, **case.options)
    grads = torch.autograd.grad(out, inputs, grad_out)
    right = expected(case)
    for name, mine in zip(("out", "grad_query", "grad_key", "grad_value"), (out, *grads), strict=True):
        wanted = right[name][:, rows]
        found = mine.detach().double().cpu().numpy()
        error = np.sqrt(np.square(found - wanted).mean() / np.square(wanted).mean())
        assert error < 4 * 2**-7, (name, error, members, seed)
    assert symmetric.refusal(group) == "", "the ranks send messages"


def run_groups(rank: int, seed: int) -> int:
    """Make, use and destroy groups of any ranks, in an order that all ranks know; return how many this one was in."""
    source = random.Random(seed)
    mine = 0
    for number in range(8):
        members = sorted(source.sample(range(SIZE), source.randint(2, SIZE)))
        group = dist.new_group(members)
        is_destroyed = source.random() < 0.5
        if rank in members:
            mine += 1
            assert_attends(group, members, 100 * seed + number)
            if is_destroyed:
                torch.cuda.synchronize()
                dist.destroy_process_group(group)
    assert_attends(None, range(SIZE), seed)
    return mine


@pytest.mark.parametrize("seed", range(4))
def test_groups_of_any_ranks_in_any_order(seed: int) -> None:
    try:
        answers = results(SIZE, run_groups, seed, device="cuda")
    finally:
        world(SIZE, "cuda").close()  # its ranks have groups that nobody else knows
    assert sum(answers) > SIZE


def run_pair_then_all(rank: int) -> None:
    """The smallest order in which ranks have met unequally often."""
    pair = dist.new_group([0, 1])
    if rank < 2:
        assert_attends(pair, [0, 1], 0)
    assert_attends(None, range(SIZE), 1)


def test_a_pair_and_then_all() -> None:
    try:
        results(SIZE, run_pair_then_all, device="cuda")
    finally:
        world(SIZE, "cuda").close()


def run_after_other_code(rank: int) -> None:
    """A tensor-parallel pair shares memory by torch alone; after that the whole world calls Robust, and both go on."""
    import torch.distributed._symmetric_memory as symmetric_memory

    pairs = [dist.new_group([first, first + 1]) for first in range(0, SIZE - 1, 2)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            if rank < 2:
                memory = symmetric_memory.empty(1 << 16, dtype=torch.float32, device="cuda")
                handle = symmetric_memory.rendezvous(memory, pairs[0])
                memory.fill_(rank)
                handle.barrier(channel=0)
                assert handle.get_buffer(1 - rank, (4,), torch.float32).tolist() == [1.0 - rank] * 4
                handle.barrier(channel=0)
            assert_attends(None, range(SIZE), 2)
    if rank < 2:
        assert_attends(pairs[0], [0, 1], 3)


def test_other_code_shares_memory_as_well() -> None:
    try:
        results(SIZE, run_after_other_code, device="cuda")
    finally:
        world(SIZE, "cuda").close()
