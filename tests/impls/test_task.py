"""What a call is to fused kernels, or the reason why they do not serve."""

from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch

from attention_gate.impls.fused import Task, task_for
from attention_gate.impls.fused.plan import plan_of
from attention_gate.impls.tiling import Branch, Layout

LAYOUT = Layout(32, 2, 1, 2, 2, (Branch(32, 1),), True)


def asked(**changes: Any) -> Task | str:
    """Return what a call is where there are kernels for 16 rows and more."""
    given: dict[str, Any] = {"batch": 3, "layout": LAYOUT, "is_zigzag": False, "scale": 0.5, "objection": None}
    given |= changes
    query, value = torch.zeros(given["batch"], 16, 2, 8), torch.zeros(given["batch"], 16, 2, 24)
    objection = Mock(return_value=given["objection"])
    with (
        patch("attention_gate.impls.fused.kernels.objection", objection),
        patch("attention_gate.impls.fused.kernels.least_rows", 16),
    ):
        found = task_for(query, value, given["layout"], given["is_zigzag"], given["scale"], None, True)
    objection.assert_called_once_with(query.device, query.dtype, 8, 24)
    return found


@pytest.mark.parametrize("scale", [0.5, 1e-300, 2.0])
def test_what_kernels_serve_is_a_task(scale: float) -> None:
    assert asked(scale=scale) == Task(plan_of(LAYOUT, False), scale, None, True)  # type: ignore[arg-type]
    assert asked(scale=scale, batch=1) == asked(scale=scale)


def test_a_task_has_the_backend_that_is_asked_for() -> None:
    given = torch.zeros(1, 16, 2, 8), torch.zeros(1, 16, 2, 24), LAYOUT, False, 0.5, None, True
    with (
        patch("attention_gate.impls.fused.kernels.backend_objection", return_value=None) as objection,
        patch("attention_gate.impls.fused.kernels.least_rows", 16),
    ):
        task = task_for(*given, "cudnn")
    assert isinstance(task, Task)
    assert task.backend == "cudnn"
    objection.assert_called_once_with("cudnn", given[0].device, given[0].dtype, 8, 24)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"objection": "no kernel"}, "no kernel"),
        ({"batch": 0}, "there is no batch"),
        ({"scale": 0.0}, "scale 0.0 is not positive"),
        ({"scale": -1.0}, "scale -1.0 is not positive"),
        ({"scale": float("nan")}, "scale nan is not positive"),
        ({"layout": Layout(33, 2, 1, 2, 2, (Branch(33, 1),), True)}, "33 rows are not equal shards on 2 ranks"),
        ({"layout": Layout(30, 2, 1, 2, 2, (Branch(30, 1),), True)}, "15 rows at a time are fewer than 16"),
        ({"is_zigzag": True}, "8 rows at a time are fewer than 16"),
    ],
)
def test_why_they_do_not_serve(changes: dict[str, Any], reason: str) -> None:
    assert asked(**changes) == reason
