"""Targets that are wrong past a size only: rejected, with the size from which on they are wrong."""

import pytest

import attention_gate
from tests.verify.field import shape_targets


@pytest.mark.parametrize("name", shape_targets.THRESHOLDS)
def test_a_mistake_past_a_size_is_found_and_its_threshold_named(name):
    report = attention_gate.check(f"tests.verify.field.shape_targets:{name}", checks=["shapes"])
    (check,) = report.checks
    assert check.outcome == "fail"
    assert shape_targets.THRESHOLDS[name] in check.failure.message, attention_gate.text(report)
    assert check.failure.example.case.world_size == 1, attention_gate.text(report)
