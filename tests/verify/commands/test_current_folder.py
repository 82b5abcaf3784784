"""The installed commands find a module in the current folder, though Python puts their own folder on the path."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]

_GATE = "from attention_gate.verify.commands.command_line import entry\nentry()\n"
_PYTEST = "import sys, pytest\nsys.exit(pytest.console_main())\n"

_FEW = ("--attention-profile", "quick", "--attention-world-sizes", "1,2", "-k", "forward")


def installed(folder: Path, script: str, *arguments: str, **variables: str) -> tuple[int, str]:
    """Run a script of another folder where ``my_attention`` lies."""
    project, commands = folder / "project", folder / "bin"
    project.mkdir()
    commands.mkdir()
    (commands / "command").write_text(script)
    (project / "my_attention.py").write_text("from impls.collective import attend\n")
    taken = ("PYTHONSAFEPATH", "PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT")
    environment = {name: value for name, value in os.environ.items() if name not in taken}
    done = subprocess.run(
        [sys.executable, str(commands / "command"), *arguments],
        cwd=project,
        env={**environment, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def gate(folder: Path, **variables: str) -> tuple[int, str]:
    """The console script, for one check in worlds of one and two ranks."""
    few = ("--profile", "quick", "--world-sizes", "1,2", "--checks", "forward")
    return installed(folder, _GATE, "gate", "my_attention:attend", *few, **variables)


def by_pytest(folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """The same by pytest's own script."""
    alone = ("-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", ".")
    if "attention_gate" not in _plugins():
        alone += ("-p", "attention_gate.verify.pytest_plugin")
    target = ("--pyargs", "attention_gate", "--attention-target", "my_attention:attend")
    return installed(folder, _PYTEST, *alone, *target, *_FEW, *arguments, **variables)


def _plugins() -> set[str]:
    from importlib.metadata import entry_points

    return {found.name for found in entry_points(group="pytest11")}


def test_the_console_script_finds_it_here_and_in_every_rank(tmp_path: Path) -> None:
    status, output = gate(tmp_path)
    assert status == 0, output


def test_pytest_s_script_finds_it_here_and_in_every_rank(tmp_path: Path) -> None:
    status, output = by_pytest(tmp_path)
    assert status == 0, output
    assert re.search(r"my_attention:attend: 1 pass", output)


def test_so_do_the_workers_of_xdist(tmp_path: Path) -> None:
    status, output = by_pytest(tmp_path, "-n", "1")
    assert status == 0, output


@pytest.mark.parametrize(("command", "refused"), [(gate, 2), (by_pytest, 4)])
def test_in_safe_path_mode_no_folder_is_added(tmp_path: Path, command, refused: int) -> None:
    status, output = command(tmp_path, PYTHONSAFEPATH="1")
    assert status == refused, output
    assert "no module named 'my_attention'" in output
