"""What ranks agree upon on accelerators, where one answer serves for many calls; the messages are stand-ins."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from attention_gate.impls import agreement
from tests.impls.cases import IMPLEMENTATIONS, Case, attend, own_tensors
from tests.impls.test_fused import CASES
from tests.impls.worlds import results

ON_CUDA = {"implementation": "attention_gate.impls.robust", "device": "cuda"}
ON_CPU = {"implementation": "attention_gate.impls.robust", "device": "cpu"}

REGULAR = CASES["dense causal"]


class Group:
    """Two ranks that always state the same; notes on which device they exchanged their verdicts."""

    def __init__(self, backends: str) -> None:
        self.backends = backends
        self.asked: list[str] = []

    def taken(self) -> list[str]:
        """Return what was exchanged since this was last asked."""
        asked, self.asked = self.asked, []
        return asked

    def agree(self, signature: dict[str, object]) -> list[str]:
        """Agree upon a call, and return on which devices."""
        agreement._agree(signature, None, 0, self)  # type: ignore[arg-type]
        return self.taken()


@contextmanager
def groups(*backends: str) -> Iterator[list[Group]]:
    def gather_bytes(payload: bytes, group: Group, device: torch.device) -> list[bytes]:
        group.asked.append(str(device))
        return [payload] * 2

    with (
        patch.object(agreement, "gather_bytes", gather_bytes),
        patch.object(dist, "get_backend_config", lambda group: group.backends),
        patch.object(torch.cuda, "current_device", lambda: 3),
    ):
        try:
            yield [Group(each) for each in backends]
        finally:
            agreement.forget()


def test_a_signature_is_agreed_upon_once_in_each_group() -> None:
    with groups("cuda:nccl", "cuda:nccl") as (group, other):
        assert group.agree(ON_CUDA) == ["cuda:3"]
        assert group.agree(ON_CUDA) == []
        assert group.agree(ON_CUDA | {"heads": 4}) == ["cuda:3"]
        assert group.agree(ON_CUDA) == []
        assert other.agree(ON_CUDA) == ["cuda:3"]


def test_verdicts_go_over_the_cpu_where_the_group_can_and_then_once_over_the_gpus() -> None:
    """NCCL cannot begin a group with messages between some of its ranks: all of them meet at the first call."""
    with groups("cpu:gloo,cuda:nccl") as (group,):
        assert group.agree(ON_CUDA) == ["cpu", "cuda:3"]
        assert group.agree(ON_CUDA | {"heads": 4}) == ["cpu"]
        assert group.agree(ON_CUDA) == []


def test_what_is_forgotten_is_agreed_upon_anew() -> None:
    with groups("cpu:gloo,cuda:nccl") as (group,):
        group.agree(ON_CUDA)
        agreement.forget()
        assert group.agree(ON_CUDA) == ["cpu", "cuda:3"]


def test_on_the_cpu_every_call_is_agreed_upon() -> None:
    with groups("cpu:gloo", "cpu:gloo,cuda:nccl") as both:
        for group in both:
            assert [group.agree(ON_CPU) for _ in range(2)] == [["cpu"], ["cpu"]]


def test_other_accelerators_than_cuda_meet_nowhere_else() -> None:
    with groups("cpu:gloo,xpu:xccl") as (group,):
        assert group.agree({"implementation": "attention_gate.impls.robust", "device": "xpu"}) == ["cpu"]


def test_differences_that_cannot_be_seen_are_no_agreement() -> None:
    with pytest.raises(AssertionError, match="the digests differ, but the signatures do not"):
        agreement._disagreement([ON_CUDA, ON_CUDA], 0)


def remembering() -> Any:
    """Do on the CPU as on a GPU."""
    return patch("attention_gate.impls.agreement._is_remembered", lambda _: True)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_process_without_process_groups_remembers_nothing(implementation: str) -> None:
    case = Case(11, ((4, 1), (11, 2)), is_causal=True, heads=4, kv_heads=2)
    query, key, value, _ = own_tensors(case, 1, 0)
    with remembering():
        first, again = (attend(implementation)(query, key, value, **case.options) for _ in range(2))
    assert torch.equal(first, again)


def run_in_other_groups(rank: int, implementation: str) -> list[float | str]:
    """Make the same call in the group of all and in one of some, where it means something else, and then with none."""
    pair = dist.new_group([1, 2])
    query, rows = torch.zeros(1, 2, 1, 1), torch.full((1, 2, 1, 1), rank + 1.0)
    options = {"segment_lengths": [6], "dilation_rates": [1]}
    means: list[float | str] = []
    with remembering():
        for group in (None, pair, None) if rank else (None, None):
            mean = attend(implementation)(query, rows, rows, group=group, **options)[0, 0, 0, 0].item()
            means.append(round(mean, 5))
        try:
            attend(implementation)(query, rows, rows, group="world", **options)
        except TypeError as error:
            means.append(str(error))
    return means


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_what_one_group_agreed_upon_is_no_agreement_of_another(implementation: str) -> None:
    refused = "group: 'world' is not a process group of torch.distributed or None"
    of_zero, *others = results(3, run_in_other_groups, implementation)
    assert of_zero == [2.0, 2.0, refused]
    assert others == [[2.0, 2.5, 2.0, refused]] * 2


def run_different_calls(rank: int, implementation: str, case: Case) -> list[int]:
    """Return how many calls are remembered after each of some different ones."""
    query, key, value, _ = own_tensors(case, dist.get_world_size(), rank)
    counts = []
    with remembering(), patch.object(agreement, "_KEPT_CALLS", 2):
        agreement.forget()
        for scale in (1.0, 2.0, 3.0, 3.0):
            attend(implementation)(query, key, value, sequence_length=case.length, **case.options | {"scale": scale})
            counts.append(sum(map(len, agreement._admitted.values())))
        agreement.forget()
    return counts


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_only_so_many_calls_are_remembered(implementation: str) -> None:
    assert results(2, run_different_calls, implementation, REGULAR) == [[1, 2, 1, 1]] * 2
