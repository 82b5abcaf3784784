"""Correct programs of other designs that take other lengths are let through, with room to spare."""

from __future__ import annotations

import pytest

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.judge.session import Session
from attention_gate.verify.run.search import search
from attention_gate.verify.target.loading import as_target
from tests.verify.correct.written_lengths import NAMES

CHECKS = ("forward", "lse", "gradients", "precision", "non-finite", "purity", "wire", "schedules", "combinations")


@pytest.mark.parametrize("name", NAMES)
def test_a_correct_program_is_let_through(worlds, network, name: str) -> None:
    session = Session(*as_target(f"tests.verify.correct.written_lengths:{name}"), worlds, (1, 2, 3, 4), network=network)
    for check in CHECKS:
        if BY_NAME[check].missing(session.target, (1, 2, 3, 4)):
            continue
        found = search(BY_NAME[check], session, examples=8, seed=0, shrink_seconds=1.0)
        assert found.finding is None, (check, found.finding, found.example)
        if check in ("forward", "lse", "gradients"):
            assert found.budget_used < 0.5
