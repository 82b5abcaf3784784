"""A saved example of a check that looks at more worlds than its case's own is examined in the same worlds again."""

from __future__ import annotations

from pathlib import Path

import attention_gate
from attention_gate.verify.commands.command_line import main


def test_numbers_of_ranks_that_disagree_disagree_in_a_replay(tmp_path: Path) -> None:
    target = "tests.verify.targets:wrong_on_two_ranks"
    report = attention_gate.check(target, profile="quick", checks=["world-sizes"], world_sizes=(1, 2), save=tmp_path)
    failure = report.checks[0].failure
    assert failure is not None
    assert failure.replay is not None
    assert main(["replay", failure.replay]) == 1
