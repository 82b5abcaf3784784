"""Two torchrun nodes on this machine: the same verdicts as in worlds of our own, and an end in bounded time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from attention_gate.verify.commands.judge_target import check
from attention_gate.verify.world.launched_ranks import _ANSWER_SECONDS
from tests.verify.world.launched.launch import launch

_TARGETS = "tests.verify.world.launched.targets"


@pytest.mark.parametrize(
    ("name", "outcome", "checks", "processes"),
    [
        ("right", "pass", ("forward", "world-sizes"), 2),
        ("wrong_on_the_last_rank", "fail", ("forward", "purity"), 1),
        ("raises", "crash", ("forward",), 1),
        ("hangs", "hang", ("forward",), 1),
    ],
)
def test_the_verdict_is_that_of_the_local_gate(
    name: str, outcome: str, checks: tuple[str, ...], processes: int, tmp_path: Path
) -> None:
    target, file = f"{_TARGETS}:{name}", tmp_path / "report.json"
    options = ("--profile=quick", f"--checks={','.join(checks)}", f"--json={file}", f"--save={tmp_path}")
    nodes = launch("gate", target, *options, processes=processes)
    sizes = tuple(range(1, 2 * processes + 1))
    local = check(target, profile="quick", checks=checks, world_sizes=sizes)

    launched = json.loads(file.read_text())
    assert launched["checks"][0]["verdict"] == outcome, nodes[0].output
    assert launched["verdict"] == local.verdict
    assert _outcomes(launched) == {result.name: result.outcome for result in local.checks}
    assert launched["world_sizes"] == list(sizes)
    # Rank 0 speaks for all, and torchrun knows on every node whether the target conforms.
    assert sum("examples, world sizes" in node.output for node in nodes) == 1, nodes
    assert all((node.status == 0) == (outcome == "pass") for node in nodes), nodes
    if outcome != "pass":
        assert "minimal case: Case(" in nodes[0].output
        assert "python -m attention_gate replay" in nodes[0].output


def test_a_target_that_cannot_be_judged_ends_all_nodes() -> None:
    nodes = launch("gate", f"{_TARGETS}:no_such_name", "--profile=quick")
    assert all(node.status != 0 for node in nodes)
    assert sum("it has no 'no_such_name'" in node.output for node in nodes) == 1, nodes


def test_nobody_ends_before_all_have_come(tmp_path: Path) -> None:
    """Ranks of the last node come when the others have heard that there is nothing to do, and waited for an answer."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys, time\n"
        "is_rank = 'RANK' in os.environ and '-c' not in sys.orig_argv\n"  # and none of its helpers
        f"time.sleep({_ANSWER_SECONDS + 3} if is_rank else 0.0)\n"
    )
    nodes = launch("gate", f"{_TARGETS}:no_such_name", "--profile=quick", seconds=150.0, late=tmp_path)
    assert all(node.status != 0 for node in nodes)
    assert sum("it has no 'no_such_name'" in node.output for node in nodes) == 1, nodes


def _outcomes(report: dict[str, Any]) -> dict[str, str]:
    return {result["name"]: result["verdict"] for result in report["checks"]}
