"""Adapters for tensors in other layouts: right ones conform, gradients included, and mistakes in each are caught."""

from pathlib import Path

import pytest
import torch

import attention_gate

_HERE = Path(__file__).parent
_RIGHT = _HERE.parents[1] / "examples" / "layouts_target.py"
_LAYOUTS = _HERE / "layouts.py"
_CHECKS = ("forward", "gradients", "world-sizes", "strides", "sub-groups", "state", "wire")


def judged(target: str, *checks: str) -> dict[str, str]:
    report = attention_gate.check(target, profile="quick", world_sizes=(1, 2, 3), checks=checks)
    assert report.error is None, report.error
    return {result.name: result.outcome for result in report.checks}


@pytest.mark.parametrize("target", ["heads_first", "packed", "tokens"])
def test_a_right_adapter_conforms(target: str) -> None:
    assert set(judged(f"{_RIGHT}:{target}", *_CHECKS).values()) == {"pass"}


@pytest.mark.parametrize("target", [f"{_RIGHT}:replicated", f"{_LAYOUTS}:library_sums"], ids=["gate sums", "library"])
def test_replicated_inputs_conform_and_what_they_send_is_not_judged(target: str) -> None:
    outcomes = judged(target, *_CHECKS)
    assert outcomes.pop("wire") == "unsupported"
    assert set(outcomes.values()) == {"pass"}


@pytest.mark.parametrize(
    ("target", "outcomes"),
    [
        ("heads_first", {"forward": "fail", "gradients": "blocked"}),
        ("packed", {"forward": "fail", "gradients": "blocked"}),
        ("tokens", {"forward": "fail", "gradients": "blocked"}),
        ("replicated", {"forward": "pass", "gradients": "fail"}),
        ("both_sum", {"forward": "pass", "gradients": "fail"}),
    ],
)
def test_a_mistake_in_the_layout_is_caught(target: str, outcomes: dict[str, str]) -> None:
    assert judged(f"{_LAYOUTS}:{target}", *outcomes) == outcomes


def test_alone_nothing_is_gathered() -> None:
    query, key = torch.ones(1, 3, 1, 2), torch.ones(1, 3, 1, 2)
    assert [one is other for one, other in zip(attention_gate.gather_rows(query, key), (query, key), strict=True)] == [
        True
    ] * 2
    assert torch.equal(attention_gate.own_rows(query), query)


def test_what_is_replicated_claims_nothing_of_what_it_sends() -> None:
    with pytest.raises(ValueError, match="cannot be combined with replicated=True"):
        attention_gate.Target(attend=judged, replicated=True, claims=("traffic",))
    with pytest.raises(ValueError, match=r"Target\.replicated is 1"):
        attention_gate.Target(attend=judged, replicated=1)  # type: ignore[arg-type]
