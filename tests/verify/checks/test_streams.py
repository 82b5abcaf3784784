"""Every stream is delayed in turn; on a GPU, targets that order them pass and those that do not fail."""

from collections.abc import Iterator
from itertools import islice
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

import attention_gate
from attention_gate.verify.case.case import Case
from attention_gate.verify.checks import BY_NAME, streams
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.mutants import STREAM_MISTAKES
from attention_gate.verify.mutants.matrix_table import line
from attention_gate.verify.mutants.mutant import Mutant
from attention_gate.verify.mutants.stream_mistakes import CAPABILITIES
from attention_gate.verify.mutants.trial import Bench
from attention_gate.verify.world.finding import Finding

CASE = Case(world_size=2, length=4, seed=10)
NEEDS_A_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="streams are those of a GPU, and here is none")


class Asked:
    """A session in which a call uses so many streams, and goes wrong while one of them is late."""

    def __init__(self, used: int, wrong: int | None = None, stuck: int | None = None) -> None:
        self.used, self.wrong, self.stuck = used, wrong, stuck
        self.asked: list[tuple[int, int]] = []

    def simulate(self, session: Any, case: Case, *, delayed: int, **options: Any) -> Any:
        """What the run of that case gives."""
        self.asked.append((delayed, case.seed))
        finding = Finding("fail", "a handle is never waited for", (), "wire") if delayed == self.stuck else None
        return SimpleNamespace(finding=finding, run=SimpleNamespace(value=lambda rank: (delayed, self.used)))

    def judge(self, case: Case, attended: list[Any]) -> Verdict:
        """Right, unless the stream that is late is the wrong one."""
        return Verdict(np.inf, Finding("fail", "wrong", (), "out")) if attended[0] == self.wrong else Verdict(0.25)


def examined(asked: Asked, monkeypatch: pytest.MonkeyPatch) -> Verdict:
    """The verdict of the check."""
    monkeypatch.setattr(streams, "simulate", asked.simulate)
    return BY_NAME["streams"].examine(asked, CASE, {"model": "stream"})  # type: ignore[arg-type]


def test_each_stream_is_late_once_and_values_are_new_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(4)
    assert examined(asked, monkeypatch) == Verdict(0.25)
    assert asked.asked == [(0, 10), (1, 11), (2, 12), (3, 13)]


def test_a_call_with_many_streams_takes_no_longer_than_one_with_six(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = Asked(40)
    examined(asked, monkeypatch)
    assert len(asked.asked) == 6


@pytest.mark.parametrize(
    ("late", "words"),
    [(0, "what the network did came late"), (1, "called on came late"), (3, "stream 2 that the target uses beside")],
)
def test_the_finding_says_which_stream_was_late(monkeypatch: pytest.MonkeyPatch, late: int, words: str) -> None:
    finding = examined(Asked(4, wrong=late), monkeypatch).finding
    assert finding is not None
    assert any(words in detail for detail in finding.details), finding.details


def test_what_the_network_finds_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    finding = examined(Asked(2, stuck=1), monkeypatch).finding
    assert finding is not None
    assert finding.headline == "a handle is never waited for"


def test_on_a_cpu_it_is_listed_as_not_tried() -> None:
    target = "attention_gate.verify.mutants.bases.ring:attend"
    [check] = attention_gate.check(target, profile="quick", world_sizes=(1,), checks=["streams"]).checks
    assert (check.outcome, check.reason) == ("unsupported", "judged with --device cuda alone")


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    """Worlds whose ranks share the GPUs of this machine."""
    with Bench(profile="quick", world_sizes=(1, 2), device="cuda") as kept:
        yield kept


@NEEDS_A_GPU
def test_a_target_that_orders_its_streams_passes_at_every_delay(bench: Bench) -> None:
    right = Mutant(name="E98", mistake="none", base="streamed", changes=(), capabilities=CAPABILITIES, caught_by=())
    session = bench.session(right)
    for case, parameters in islice(bench.examples(BY_NAME["streams"], session.target, 0), 8):
        verdict = BY_NAME["streams"].examine(session, case, parameters)
        assert verdict.finding is None, verdict.finding


@NEEDS_A_GPU
@pytest.mark.parametrize("mutant", STREAM_MISTAKES, ids=lambda mutant: mutant.name)
def test_a_mistake_in_the_order_of_streams_is_caught(bench: Bench, mutant: Mutant) -> None:
    trial = bench.trial(mutant, matrix=False, shrink=False)
    assert trial.as_expected, line(trial)
