"""The first minutes: versions, the list of checks, near misses, a signature that does not fit, a syntax error."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from attention_gate.verify.checks import CHECKS
from attention_gate.verify.commands.check_list import check_list, needs
from attention_gate.verify.commands.command_line import main
from attention_gate.verify.report import program as called

ROOT = Path(__file__).parents[3]


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The gate as a user calls it."""
    return subprocess.run(
        [sys.executable, "-m", "attention_gate", *arguments],
        cwd=folder,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PATH": ""},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_versions(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    printed = capsys.readouterr().out
    assert printed.startswith("attention-gate 0.")
    assert f"torch {torch.__version__}, Python {sys.version.split()[0]}" in printed


@pytest.mark.parametrize("arguments", [["--list-checks"], ["gate", "--list-checks"]])
def test_every_check_is_listed_with_its_promise(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    printed = " ".join(capsys.readouterr().out.split())
    for check in CHECKS:
        assert f"{check.name}: the target {check.promise}" in printed


def test_what_a_check_needs_is_what_it_refuses_to_do_without() -> None:
    wanted = {check.name: needs(check) for check in CHECKS}
    assert wanted["forward"] == []
    assert wanted["gradients"] == ["gradients"]
    assert wanted["lse"] == ["return_lse"]
    assert wanted["sub-groups"] == ["two ranks or more", "sub-groups"]
    assert wanted["traffic"] == ["two ranks or more", "the claim traffic", "--device cpu"]
    assert wanted["compiled"] == ["the claim compiled", "--profile standard or thorough"]
    assert "builds on forward" in check_list()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["gat", "x:y"], "'gat' is no command; choose from gate, replay, mutants, init, compare, doctor; did you mean"),
        (
            ["gate", "x:y", "--profile", "quik"],
            "unknown profile 'quik'; choose from quick, standard, thorough; did you",
        ),
        (["gate", "x:y", "--checks", "foward"], "did you mean 'forward'?"),
        (["gate", "x:y", "--claims", "wires"], "did you mean 'wire'?"),
        (["mutants", "--profile", "fast"], "unknown profile 'fast'"),
    ],
)
def test_a_near_miss_is_named(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.suppress(SystemExit):  # argparse's way to end, with the status 2
        assert main(arguments) == 2
    assert words in capsys.readouterr().err


def test_a_signature_that_does_not_fit_is_refused_before_anything_is_judged(tmp_path: Path) -> None:
    """And what ``init`` writes for it is judged: here its adapter hands on a wrong result."""
    (tmp_path / "mine.py").write_text("def attend(q, k, v, causal=False):\n    return 2 * v\n")
    refused = run(tmp_path, "gate", "mine.py")
    assert refused.returncode == 2
    assert refused.stdout == ""
    assert refused.stderr.startswith("attention-gate: mine.py:attend does not take the arguments that the gate passes")
    assert "not taken: segment_lengths, dilation_rates, is_causal (yours: causal)" in refused.stderr
    assert "CRASH" not in refused.stderr
    written = run(tmp_path, "init", "mine.py")
    assert written.returncode == 0
    assert (
        "mine.py does not take the arguments that the gate passes; its adapter does:\nwrote mine_target.py"
        in written.stdout
    )
    assert "--attention-target mine_target.py:target" in written.stdout
    few = ("--profile", "quick", "--checks", "forward", "--world-sizes", "2")
    judged = run(tmp_path, "gate", "mine_target.py", *few, "--json", "report.json")
    assert judged.returncode == 1, judged.stderr
    assert "FAIL  forward: the output is wrong" in judged.stdout
    assert "\nmine_target.py:target: DOES NOT CONFORM\n" in judged.stdout
    saved = json.loads((tmp_path / "attention-gate-failures/target-forward.json").read_text())
    assert saved["target"] == f"{tmp_path}/mine_target.py:target"
    assert json.loads((tmp_path / "report.json").read_text())["target"] == saved["target"]
    python = f"{sys.executable} -m attention_gate"
    replay = next(line for line in judged.stdout.splitlines() if line.startswith("  replay: "))
    assert replay == f"  replay: {python} replay attention-gate-failures/target-forward.json"
    line = next(line for line in judged.stdout.splitlines() if line.startswith("  or in Python: "))
    again = subprocess.run(
        [
            sys.executable,
            "-c",
            f"{line.removeprefix('  or in Python: ').replace('attention_gate.r', 'print(attention_gate.r')})",
        ],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert "the output is wrong in" in again.stdout, again.stderr


def test_a_line_that_is_no_python_is_shown(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("import torch\n\ndef attend(q, k v):\n    pass\n")
    refused = run(tmp_path, "gate", "mine.py")
    assert refused.returncode == 2
    assert "in line 3 of mine.py: " in refused.stderr
    assert "def attend(q, k v):" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "python", "words"),
    [
        (["/usr/lib/site/attention_gate/__main__.py", "gate"], "/no/bin/python9", "/no/bin/python9 -m attention_gate"),
        # As it is typed: found on PATH, it is no file of the current folder.
        (["/usr/lib/site/attention_gate/__main__.py", "gate"], "python", "python -m attention_gate"),
        (["/usr/lib/site/attention_gate/__main__.py", "gate"], "python3.11", "python3.11 -m attention_gate"),
        (["/usr/lib/site/attention_gate/__main__.py", "gate"], shutil.which("sh"), "sh -m attention_gate"),
        (["/no/venv/bin/attention-gate", "gate"], "python", "/no/venv/bin/attention-gate"),
        (["/usr/bin/pytest"], "python", called.ANYWHERE),
    ],
)
def test_the_replay_line_is_the_program_as_it_was_called(
    argv: list[str], python: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", [python, *argv])
    assert called.program() == words


def test_the_replay_line_names_the_python_of_its_own_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("mine", "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "python").symlink_to(sys.executable)
    argv = ["/usr/lib/site/attention_gate/__main__.py", "gate"]
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setattr(sys, "orig_argv", [str(tmp_path / "mine/python"), *argv])
    monkeypatch.setenv("PATH", str(tmp_path / "other"))
    assert called.program() == f"{tmp_path / 'mine/python'} -m attention_gate"
    monkeypatch.setenv("PATH", str(tmp_path / "mine"))
    assert called.program() == "python -m attention_gate"


def test_a_failure_is_reported_by_a_python_that_was_found_on_path(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, group=None,\n"
        "           sequence_length=None):\n    return query * 2\n"
    )
    command = ["python", "-m", "attention_gate", "gate", "mine.py", "--checks", "forward", "--profile", "quick"]
    judged = subprocess.run(
        command,
        executable=sys.executable,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert judged.returncode == 1, judged.stderr
    assert "python -m attention_gate replay attention-gate-failures/" in judged.stdout
