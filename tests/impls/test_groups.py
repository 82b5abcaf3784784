"""Any group of processes: none, one, some without rank 0, some while the others do something else."""

import numpy as np
import pytest
import torch.distributed as dist

from tests.impls.cases import IMPLEMENTATIONS, Case, assert_close, attend, collect, own_tensors, run_case
from tests.impls.worlds import Raised, results, world

pytestmark = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

CASE = Case(11, ((4, 1), (11, 2)), is_causal=True, heads=4, kv_heads=2)
OTHER = Case(10, ((10, 3),), heads=3, kv_heads=3, seed=3)


def run_in_groups(rank: int, implementation: str, members: list[list[int]], cases: list[Case]) -> dict | None:
    """Run the case of the group that this rank is in; a rank in no group does nothing, and waits for no one."""
    groups = [dist.new_group(ranks) for ranks in members]
    answer = None
    for ranks, case, group in zip(members, cases, groups, strict=True):
        if rank in ranks:
            answer = run_case(rank, implementation, case, group)
    return answer


@pytest.mark.parametrize("ranks", [[2, 3], [1, 3], [0, 2, 3], [3]])
def test_a_group_of_some_while_the_others_do_nothing(implementation: str, ranks: list[int]) -> None:
    answers = results(4, run_in_groups, implementation, [ranks], [CASE])
    assert_close([answers[rank] for rank in ranks], CASE)
    assert all(answers[rank] is None for rank in range(4) if rank not in ranks)


def test_two_groups_with_different_work_at_once(implementation: str) -> None:
    answers = results(4, run_in_groups, implementation, [[0, 2], [1, 3]], [CASE, OTHER])
    assert_close([answers[0], answers[2]], CASE)
    assert_close([answers[1], answers[3]], OTHER)


def test_without_process_groups_the_world_is_this_process(implementation: str) -> None:
    assert not dist.is_initialized()
    query, key, value, grad_out = own_tensors(CASE, 1, 0)
    out, lse = attend(implementation)(query, key, value, return_lse=True, **CASE.options)
    out.backward(grad_out)
    assert_close([collect(out, lse, query, key, value)], CASE)


def test_without_process_groups_it_is_outside_of_those_that_it_is_no_member_of(implementation: str) -> None:
    assert not dist.is_initialized()
    with pytest.raises(ValueError, match="group: this process is not a member of the group"):
        attend(implementation)(*own_tensors(CASE, 1, 0)[:3], group=dist.GroupMember.NON_GROUP_MEMBER, **CASE.options)


@pytest.mark.parametrize("layout", ["contiguous", "zigzag"])
def test_without_process_groups_both_layouts_are_the_same(implementation: str, layout: str) -> None:
    query, key, value, grad_out = own_tensors(CASE, 1, 0)
    out, lse = attend(implementation)(query, key, value, layout=layout, return_lse=True, **CASE.options)
    out.backward(grad_out)
    assert_close([collect(out, lse, query, key, value)], CASE)


def test_a_process_outside_the_group_gets_an_error(implementation: str) -> None:
    answers = world(3).run(run_outside, implementation)
    assert_close(answers[1:], CASE)
    assert isinstance(answers[0], Raised)
    assert (answers[0].kind, answers[0].text) == ("ValueError", "group: this process is not a member of the group")


def run_outside(rank: int, implementation: str) -> dict[str, np.ndarray]:
    group = dist.new_group([1, 2])
    if rank == 0:
        attend(implementation)(*own_tensors(CASE, 1, 0)[:3], group=group, **CASE.options)
    return run_case(rank, implementation, CASE, group)
