"""What libraries mean otherwise: right where the target declares it, and a failure where it does not."""

from __future__ import annotations

import pytest

import attention_gate

HERE = "tests.verify.terms.convention_targets"


@pytest.mark.parametrize(
    ("name", "check"), [("sink", "lse"), ("slopes", "lse"), ("window", "forward"), ("joint", "gradients")]
)
def test_a_convention_is_right_where_it_is_declared_alone(name: str, check: str) -> None:
    checks = ["forward", check] if check != "forward" else [check]
    declared = attention_gate.check(f"{HERE}:{name}_declared", profile="standard", checks=checks)
    assert declared.verdict == "pass", attention_gate.text(declared)
    undeclared = attention_gate.check(f"{HERE}:{name}_undeclared", profile="standard", checks=checks)
    assert [result.outcome for result in undeclared.checks][-1] != "pass"
