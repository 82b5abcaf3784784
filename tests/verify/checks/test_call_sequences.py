"""State between calls: each kind of change is tried once before chance begins."""

import dataclasses

import pytest

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.call_sequences import STATE, _changes
from attention_gate.verify.checks.check import Parameters
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.mutants import MUTANTS
from attention_gate.verify.run.search import search
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.local import Worlds
from tests.verify.mutants.conftest import bench  # noqa: F401


@pytest.mark.parametrize("target", ["tests.verify.targets:right", "impls.robust:attend"])
def test_each_kind_of_change_is_tried_within_as_many_examples(target: str) -> None:
    tried: list[str] = []

    def note(session: Session, case: Case, parameters: Parameters) -> Verdict:
        tried.append(parameters["change"])
        return Verdict(0.0)

    judged, source = as_target(target)
    session = Session(judged, source, Worlds(), (1, 2, 3, 4))
    kinds = _changes(session)
    search(dataclasses.replace(STATE, examine=note), session, examples=1 + len(kinds), seed=0)
    assert set(tried) == set(kinds)


@pytest.mark.parametrize("name", ["X85", "X41"])
def test_what_is_kept_under_too_narrow_a_key_is_found_by_its_kind_of_change(bench, name: str) -> None:  # noqa: F811
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == name)
    for seed in range(3):
        first = bench.again(mutant, seed=seed).first
        assert (first.check, first.examples <= 1 + 3 * 12) == ("state", True), (seed, first)
