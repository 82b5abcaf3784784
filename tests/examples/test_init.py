"""What ``attention-gate init`` writes is right as it stands, and never replaces what is there."""

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from verify.cli import main

_TARGET = """\
from impls.collective import attend as gathered

def attend(query, key, value, **options):
    return gathered(query, key, value, **options) * {factor}
"""


def test_the_test_that_it_writes_judges_the_target(tmp_path: Path) -> None:
    assert main(["init", "mine.py:attend", "--folder", str(tmp_path)]) == 0
    test = (tmp_path / "tests/test_attention.py").read_text()
    # The first check is enough to tell right from wrong here.
    (tmp_path / "tests/test_attention.py").write_text(
        test.replace('profile="quick"', 'profile="quick", checks=["forward"]')
    )
    for factor, status in ((1, 0), (2, 1)):
        (tmp_path / "mine.py").write_text(_TARGET.format(factor=factor))
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests"],
            cwd=tmp_path,
            env={"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1", "PATH": ""},
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert ran.returncode == status, ran.stdout + ran.stderr
    assert "the output is wrong in" in ran.stdout


def test_the_lines_for_tox_and_actions_are_well_formed(tmp_path: Path) -> None:
    assert main(["init", "my.module:attend", "--folder", str(tmp_path)]) == 0
    tox = configparser.ConfigParser()
    tox.read(tmp_path / "tox.ini")
    assert tox["testenv:attention"]["commands"].startswith("attention-gate gate my.module:attend")
    workflow = (tmp_path / ".github/workflows/attention.yml").read_text()
    assert "attention-gate gate my.module:attend --junit attention.xml" in workflow
    assert "\t" not in workflow


def test_it_says_how_to_run_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", "my.module:attend", "--folder", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    # Only the gate's own tests find a module of the current folder by themselves.
    assert f"now: python -m pytest {tmp_path}/tests/test_attention.py," in told
    assert "\n     pytest --pyargs verify --attention-target my.module:attend\n" in told


def test_what_is_there_is_left_alone_and_the_lines_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tox.ini").write_text("mine")
    assert main(["init", "my.module:attend", "--folder", str(tmp_path)]) == 0
    assert (tmp_path / "tox.ini").read_text() == "mine"
    told = capsys.readouterr().out
    assert "tox.ini is there and left alone" in told
    assert "[testenv:attention]" in told


def test_what_it_wrote_itself_it_need_not_print_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["init", "my.module:attend", "--folder", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert told.count("is there already") == 3
    assert "left alone" not in told


def test_a_folder_that_is_a_file_is_told_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
