"""What libraries mean otherwise: right where the target declares it, and a failure where it does not."""

from __future__ import annotations

import pytest

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.profiles import examples
from attention_gate.verify.judge.session import Session
from attention_gate.verify.run.search import Searched, search
from attention_gate.verify.target.loading import as_target

HERE = "tests.verify.terms.convention_targets"


@pytest.mark.parametrize(
    ("name", "check"), [("sink", "lse"), ("slopes", "lse"), ("window", "forward"), ("joint", "gradients")]
)
def test_a_convention_is_right_where_it_is_declared_alone(worlds, network, name: str, check: str) -> None:
    def judged(target: str) -> Searched:
        session = Session(*as_target(f"{HERE}:{target}"), worlds, (1, 2, 3, 4), network=network)
        planned = examples("standard", BY_NAME[check].weight)
        return search(BY_NAME[check], session, examples=planned, seed=0, shrink_seconds=0.0)

    undeclared = judged(f"{name}_undeclared")
    assert undeclared.finding is not None
    assert undeclared.first_failure_after < 60
    assert judged(f"{name}_declared").finding is None
