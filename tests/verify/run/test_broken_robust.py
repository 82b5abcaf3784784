"""The gate as a user meets it: broken copies of Robust on the command line, and their saved examples again."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from attention_gate.verify.commands.command_line import main
from tests.verify.broken import broken_robust

REPOSITORY = Path(__file__).parents[3]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command line in a process of its own, with the folder of the broken copy on the path."""
    code = (
        f"import sys; sys.path[:0] = [{str(folder)!r}, {str(REPOSITORY)!r}]\n"
        "from attention_gate.verify.commands.command_line import main; sys.exit(main())"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, cwd=folder, timeout=100, check=False
    )


@pytest.mark.parametrize(
    ("mistake", "outcome", "words"),
    [
        (
            "local_mask",
            "fail",
            ["forward: the output is wrong", "is_causal=True", "world_size=2, length=3", "known mistake"],
        ),
        ("last_hop_left_out", "fail", ["gradients: the gradient of", "world_size=2", "forward", "CONFORM"]),
        ("hangs_on_rank_2", "hang", ["did not finish", "rank 2 was at", "ranks 0", "threading.py"]),
        ("raises_on_rank_1", "crash", ["rank 1 raised RuntimeError: out of luck", "rank 1 raised at", "world_size=2"]),
    ],
)
def test_a_broken_copy_is_reported_and_its_saved_example_fails_again(
    mistake: str,
    outcome: str,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    target = broken_robust(mistake, tmp_path)
    line = ("gate", target, "--profile=quick", "--checks=forward,gradients", "--json=r.json", "--save=saved")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    start = time.monotonic()
    if mistake == "local_mask":
        gate = run(tmp_path, *line)
        status, printed = gate.returncode, gate.stdout
    else:  # in this process, which has torch
        status, printed = main(list(line)), capsys.readouterr().out
    seconds = time.monotonic() - start
    assert status == 1, printed
    for word in words:
        assert word in printed
    report = json.loads((tmp_path / "r.json").read_text())
    failed = next(check for check in report["checks"] if check["failure"])
    assert failed["verdict"] == outcome
    assert seconds < 60  # 30 s on a quiet machine
    assert main(["replay", failed["failure"]["replay"]]) == 1
    assert capsys.readouterr().out.splitlines()[2].startswith(f"{outcome}: ")
