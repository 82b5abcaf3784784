"""State between calls: each kind of change is tried once before chance begins."""

import dataclasses

import pytest

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.call_sequences import STATE, _changes
from attention_gate.verify.checks.check import Parameters
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.run.search import search
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.local import Worlds


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
