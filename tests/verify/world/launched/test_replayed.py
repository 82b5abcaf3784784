"""What a launched gate found on the simulated network runs again under the same launch line, and in other worlds."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from attention_gate.verify.commands.command_line import main
from tests.verify.world.launched.launch import launch

_UNBATCHED = "tests.verify.network.mistakes:unbatched"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A deadlock of two ranks that a gate on three has found."""
    folder = tmp_path_factory.mktemp("saved")
    checks = ("--profile=quick", "--checks=schedules", f"--save={folder}")
    (node,) = launch("gate", _UNBATCHED, *checks, nodes=1, processes=3)
    assert "HANG  schedules: deadlock: rank 0 waits for rank 1, which waits for rank 0" in node.output
    assert "KeyboardInterrupt" not in node.output, node.output  # the launcher ends it once others have left
    return folder / "unbatched-schedules.json"


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


@pytest.mark.parametrize("processes", [1, 3])
def test_any_number_of_ranks_may_be_launched(saved: Path, processes: int) -> None:
    assert json.loads(saved.read_text())["case"]["world_size"] == 2
    (node,) = launch("replay", str(saved), nodes=1, processes=processes)
    assert "\nhang: deadlock: rank 0 waits for rank 1, which waits for rank 0" in node.output
    assert "exitcode  : 1 " in node.output
    assert "KeyboardInterrupt" not in node.output, node.output


def test_without_a_launcher_it_fails_alike(saved: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(saved)]) == 1
    assert "\nhang: deadlock: rank 0 waits for rank 1, which waits for rank 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("world_size", "target", "words"),
    [
        (2, "tests.verify.world.launched.targets:right", "forward passes on this example now"),
        (4, "tests.verify.world.launched.targets:right", "this example needs 4 ranks; 3 were launched"),
        (2, "{folder}/alone.py:target", "needs 2 ranks, as its target takes no sub-groups; 3 were launched"),
    ],
)
def test_a_real_transport_needs_the_ranks_of_the_example(
    tmp_path: Path, saved: Path, world_size: int, target: str, words: str
) -> None:
    (tmp_path / "alone.py").write_text(
        "import attention_gate\nfrom tests.verify.world.launched.targets import right\n"
        "target = attention_gate.Target(attend=right, subgroups=False)\n"
    )
    data = json.loads(saved.read_text())
    data |= {"check": "forward", "parameters": {}, "target": target.format(folder=tmp_path)}
    data["case"] |= {"world_size": world_size, "length": 4, "segment_lengths": [4]}
    file = tmp_path / "example.json"
    file.write_text(json.dumps(data))
    (node,) = launch("replay", str(file), nodes=1, processes=3)
    assert words in node.output, node.output
