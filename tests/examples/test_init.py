"""What ``attention-gate init`` writes is right as it stands, and never replaces what is there."""

import configparser
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import pytest
import torch
from packaging.requirements import Requirement

from attention_gate.verify.commands.command_line import main

_WORKFLOW = ".github/workflows/attention.yml"

_TARGET = """\
from attention_gate.impls.collective import attend as gathered

def attend(query, key, value, **options):
    return gathered(query, key, value, **options) * {factor}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder of a user's, with what was written for it and the gate's command, but for the first check alone."""
    assert main(["init", "mine.py:attend", "--folder", str(tmp_path)]) == 0
    test = tmp_path / "tests/test_attention.py"
    few = 'profile="quick", checks=["forward"], world_sizes=[2]'
    test.write_text(test.read_text().replace('profile="quick"', few))
    command = tmp_path / "bin/attention-gate"
    command.parent.mkdir()
    command.write_text(
        f'#!/bin/sh\nexec {sys.executable} -m attention_gate "$@" --profile quick --checks forward --world-sizes 2\n'
    )
    command.chmod(0o700)
    return tmp_path


def run(project: Path, *command: str, folder: str) -> subprocess.CompletedProcess[str]:
    environment = {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "PATH": f"{project}/bin"}
    return subprocess.run(
        command, cwd=project / folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.parametrize(("factor", "status"), [(1, 0), (2, 1)])
def test_the_test_that_it_writes_judges_the_target(project: Path, factor: int, status: int) -> None:
    """From another folder than the project's, as well."""
    (project / "mine.py").write_text(_TARGET.format(factor=factor))
    ran = run(project, sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", folder="tests")
    assert ran.returncode == status, ran.stdout + ran.stderr
    assert ("the output is wrong in" in ran.stdout) == bool(status)


def test_the_commands_that_it_writes_for_tox_and_actions_judge_the_target(project: Path) -> None:
    of_tox = settings(project)["commands"].strip().replace("{env_tmp_dir}", ".")
    [of_actions] = re.findall(r"- run: (attention-gate gate .*)", (project / _WORKFLOW).read_text())
    for line, factor, status in ((of_tox, 1, 0), (of_actions, 2, 1)):
        (project / "mine.py").write_text(_TARGET.format(factor=factor))
        ran = run(project, *shlex.split(line), folder=".")
        assert ran.returncode == status, ran.stdout + ran.stderr
        assert len(list(ElementTree.parse(project / "attention.xml").iter("failure"))) == status
    assert list((project / "failures").glob("*.json")), "an artifact of the workflow"


def settings(project: Path) -> configparser.SectionProxy:
    """What tox reads; without a command line it must not run an environment of its own making."""
    tox = configparser.ConfigParser()
    tox.read(project / "tox.ini")
    assert tox["tox"]["env_list"] == "attention"
    return tox["testenv:attention"]


def test_tox_and_actions_install_this_torch_and_the_gate_from_where_it_came(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    origins = {
        None: "attention-gate",
        '{"url": "file:///wheels/gate.whl", "archive_info": {}}': "attention-gate @ file:///wheels/gate.whl",
        '{"url": "https://host/gate", "vcs_info": {"vcs": "git", "commit_id": "1a2b"}}': (
            "attention-gate @ git+https://host/gate@1a2b"
        ),
    }
    for number, (origin, requirement) in enumerate(origins.items()):
        monkeypatch.setattr(
            "attention_gate.verify.commands.init.metadata.distribution",
            lambda name, origin=origin: SimpleNamespace(version=torch.__version__, read_text=lambda file: origin),
        )
        folder = tmp_path / str(number)
        folder.mkdir()
        assert main(["init", "my.module:attend", "--folder", str(folder)]) == 0
        reported = capsys.readouterr().out
        assert ("installed from a local path" in reported) == ("file:" in requirement)
        version = torch.__version__.partition("+")[0]
        installed = settings(folder)["deps"].split("\n")[1:]
        assert installed == [f"torch=={version}", requirement]
        assert [str(Requirement(line)) for line in installed] == installed
        quoted = f'"{requirement}"' if " " in requirement else requirement
        assert f"- run: pip install {quoted}\n" in (folder / _WORKFLOW).read_text()


@pytest.mark.parametrize("is_project", [False, True])
def test_a_project_is_installed_and_a_folder_of_files_is_not(tmp_path: Path, is_project: bool) -> None:
    if is_project:
        (tmp_path / "pyproject.toml").touch()
    assert main(["init", "my.module:attend", "--folder", str(tmp_path)]) == 0
    assert settings(tmp_path).get("package") == (None if is_project else "skip")
    workflow = (tmp_path / _WORKFLOW).read_text()
    assert bool(re.search(r"- run: pip install .*attention-gate.* \.\n", workflow)) == is_project
    assert "\t" not in workflow


def test_a_file_that_is_not_there_is_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "mine.py:attend", "--folder", str(tmp_path)]) == 0
    assert f"note: {tmp_path}/mine.py does not exist yet" in capsys.readouterr().out


def test_it_says_how_to_run_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "my.module:attend", "--folder", str(tmp_path)]) == 0
    reported = capsys.readouterr().out
    # Only the gate's own tests find a module of the current folder by themselves.
    assert f"now: python -m pytest {tmp_path}/tests/test_attention.py, or tox," in reported
    assert "\n     pytest --pyargs attention_gate --attention-target my.module:attend\n" in reported


def test_what_is_there_is_left_alone_and_the_lines_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tox.ini").write_text("mine")
    assert main(["init", "my.module:attend", "--folder", str(tmp_path)]) == 0
    assert (tmp_path / "tox.ini").read_text() == "mine"
    reported = capsys.readouterr().out
    assert "tox.ini exists and was not changed" in reported
    assert "add these lines:\n\n[testenv:attention]\n" in reported


def test_what_it_wrote_itself_it_need_not_print_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["init", "my.module:attend", "--folder", str(tmp_path)]) == 0
    reported = capsys.readouterr().out
    assert reported.count("exists and needs no change") == 3
    assert "was not changed" not in reported


def test_a_folder_that_is_a_file_is_reported_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tests").write_text("mine")
    assert main(["init", "my.module:attend", "--folder", str(tmp_path)]) == 2
    assert "tests/test_attention.py cannot be written: " in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments",
    [["no target"], ["my.module:attend", "--folder", "no/such/folder"], ["it's {mine}.py:attend"]],
)
def test_what_cannot_be_is_refused_in_one_line(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", *arguments]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
