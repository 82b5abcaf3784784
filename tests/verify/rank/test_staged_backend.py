"""Gloo through host memory, as for ranks that share a GPU: what it receives is where torch promises it."""

from collections.abc import Iterator

import pytest
import torch

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.rank.staged_backend import NAME, Handle
from attention_gate.verify.run.judging import judge
from attention_gate.verify.run.observer import Silent
from attention_gate.verify.run.request import Options
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.local import Worlds


@pytest.fixture(scope="module")
def staged() -> Iterator[Worlds]:
    """Worlds whose ranks copy every tensor, as if it were on a GPU."""
    with Worlds(backend=NAME) as worlds:
        yield worlds


def session(text: str, worlds: Worlds, sizes: tuple[int, ...]) -> Session:
    """A session on those worlds."""
    target, source = as_target(text)
    return Session(target, source, worlds, sizes)


@pytest.mark.parametrize("function", ["everything", "meshes"])
def test_every_operation_gives_what_torch_promises(staged: Worlds, function: str) -> None:
    case = Case(world_size=4, length=4, requires_grad="")
    _, finding = session(f"tests.verify.network.operations:{function}", staged, (4,)).attend(case)
    assert finding is None, finding


def test_it_works_in_a_sub_group(staged: Worlds) -> None:
    case = Case(world_size=4, group=(1, 3), length=2, requires_grad="")
    _, finding = session("tests.verify.network.operations:everything", staged, (4,)).attend(case)
    assert finding is None, finding


def test_what_other_backends_refuse_is_refused(staged: Worlds) -> None:
    case = Case(world_size=2, length=2, requires_grad="")
    _, finding = session("tests.verify.network.operations:strided", staged, (2,)).attend(case)
    assert finding is not None
    assert "must be contiguous" in finding.headline


@pytest.mark.parametrize("base", ["ring", "gather"])
def test_right_programs_pass_on_it_and_the_report_names_it(staged: Worlds, base: str) -> None:
    checks = ("forward", "gradients", "sub-groups")
    judged = session(f"attention_gate.verify.mutants.bases.{base}:attend", staged, (1, 2, 3))
    report = judge(judged, Options(profile="quick", world_sizes=(1, 2, 3), checks=checks), Silent())
    assert report.verdict == "pass", report.checks
    assert report.environment["backend"] == NAME


class _Gloo:
    def __init__(self, copy: torch.Tensor) -> None:
        self.copy, self.waits = copy, 0

    def wait(self) -> bool:
        self.waits += 1
        self.copy.fill_(3.0)
        return True

    def is_completed(self) -> bool:
        return True


@pytest.mark.parametrize("way", ["wait", "is_completed", "get_future"])
def test_what_was_received_is_in_its_place_once_it_is_waited_for_and_not_before(way: str) -> None:
    tensor, copy = torch.zeros(2), torch.zeros(2)
    handle = Handle(_Gloo(copy), [(tensor, copy)], [tensor])
    assert tensor.tolist() == [0.0, 0.0]
    getattr(handle, way)()
    assert tensor.tolist() == [3.0, 3.0]
    assert handle.result() == [tensor]
