"""What a launched gate found on the simulated network runs again under the same launch line, and in other worlds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attention_gate import Case, Target
from attention_gate.verify.checks.results import Example
from attention_gate.verify.commands.command_line import main
from attention_gate.verify.commands.replay import _misfit
from attention_gate.verify.report.saved_examples import Saved
from attention_gate.verify.target.source import parse_source
from tests.verify.world.launched.launch import launch
from tests.verify.world.launched.targets import right

_DEADLOCK = "deadlock: rank 0 waits for rank 1, which waits for rank 0"


def test_a_launcher_that_ends_it_late_changes_no_status() -> None:
    program = (
        "import os, signal; from attention_gate.verify.commands import command_line as cli\n"
        "from attention_gate.verify.world import fork_client as kept\n"
        "signal.signal(signal.SIGTERM, cli._terminate)\n"
        "cli.main = lambda: 7\n"
        "kept.shut_down = lambda: os.kill(os.getpid(), signal.SIGTERM)\n"
        "cli.entry()"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (ended.returncode, ended.stderr) == (7, "")


def test_one_rank_may_be_launched_for_an_example_of_two_or_none(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A deadlock of two ranks."""
    checks = ("--profile=quick", "--checks=schedules", f"--save={tmp_path}")
    (node,) = launch("gate", "tests.verify.network.mistakes:unbatched", *checks, nodes=1, processes=2)
    assert f"HANG  schedules: {_DEADLOCK}" in node.output
    assert "KeyboardInterrupt" not in node.output, node.output  # the launcher ends it once others have left
    saved = tmp_path / "unbatched-schedules.json"
    assert json.loads(saved.read_text())["case"]["world_size"] == 2

    (node,) = launch("replay", str(saved), nodes=1, processes=1)
    assert f"\nhang: {_DEADLOCK}" in node.output
    assert "exitcode  : 1 " in node.output
    assert "KeyboardInterrupt" not in node.output, node.output

    assert main(["replay", str(saved)]) == 1
    assert f"\nhang: {_DEADLOCK}" in capsys.readouterr().out


def _saved(world_size: int, check: str = "forward") -> Saved:
    case = Case(world_size=world_size, length=12, segment_lengths=(12,))
    return Saved(parse_source("tests.verify.world.launched.targets:right"), Example(check, case, {}), "cpu", "", ())


def test_fewer_ranks_than_were_launched_are_a_group(tmp_path: Path) -> None:
    file, saved = tmp_path / "example.json", _saved(1)
    case = {"world_size": 1, "length": 12, "segment_lengths": [12]}
    document = {"schema": 3, "target": saved.source.address, "check": "forward", "case": case, "parameters": {}}
    file.write_text(json.dumps(document | {"history": [], "device": "cpu", "headline": "wrong"}))
    (node,) = launch("replay", str(file), nodes=1, processes=2)
    assert "forward passes on this example now" in node.output, node.output


@pytest.mark.parametrize(
    ("saved", "subgroups", "words"),
    [
        (_saved(4), True, "this example needs 4 ranks; 3 were launched"),
        (_saved(2), False, "this example needs 2 ranks, as its target takes no sub-groups; 3 were launched"),
        (_saved(2), True, ""),
        (_saved(3), False, ""),
        (_saved(4, "schedules"), False, ""),
    ],
)
def test_a_real_transport_needs_the_ranks_of_the_example(saved: Saved, subgroups: bool, words: str) -> None:
    assert _misfit(saved, Target(attend=right, subgroups=subgroups), 3) == words
