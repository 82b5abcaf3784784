"""The wheel adds one importable name, and judges a target in a project whose folders are called as ours are."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

pytest.importorskip("hatchling", reason="building the wheel needs hatchling: pip install hatchling")

ROOT = Path(__file__).parents[2]

#: A project with a folder or a file for each of our names. Each one raises where it is taken for ours.
PROJECT = {
    "reference/__init__.py": "PAPERS = ['2307.02486']\n",
    "impls/__init__.py": "from impls.ring import attend\n",
    "impls/ring.py": (Path(__file__).parent / "users_target.py").read_text(),
    "verify.py": "def signature(text):\n    return text[::-1]\n",
    "conftest.py": "import verify\n\nSIGNED = verify.signature('abc')\n",
    "tests/test_own.py": (
        "import impls\nimport reference\nimport verify\n\n\n"
        "def test_own_names_are_own():\n"
        "    assert (reference.PAPERS, verify.signature('ab')) == (['2307.02486'], 'ba')\n"
        "    assert impls.attend\n"
    ),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder)]
    subprocess.run([*build, str(ROOT)], check=True, capture_output=True, text=True)
    [built] = folder.glob("attention_gate-*.whl")
    return built


@pytest.fixture(scope="module")
def site(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the wheel is installed in."""
    folder = tmp_path_factory.mktemp("site")
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(folder)]
    subprocess.run([*install, str(wheel)], check=True, capture_output=True, text=True)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    for name, text in PROJECT.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    return tmp_path


def run(site: Path, project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *command],
        cwd=project,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_one_name_is_new(wheel: Path, site: Path) -> None:
    names = {Path(name).parts[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in names if not name.endswith(".dist-info")} == {"attention_gate"}
    assert {path.name for path in site.iterdir() if not path.name.endswith(".dist-info")} == {"attention_gate", "bin"}
    assert [path.name for path in (site / "bin").iterdir()] == ["attention-gate"]
    assert (site / "attention_gate" / "py.typed").is_file()


def test_a_target_is_judged_beside_folders_of_our_names(site: Path, project: Path) -> None:
    place = "import attention_gate, attention_gate.verify as v; print(attention_gate.__file__, v.__file__)"
    assert all(name.startswith(str(site)) for name in run(site, project, "-c", place).stdout.split())
    options = ["--profile", "quick", "--checks", "forward,gradients,schedules"]
    ran = run(site, project, "-m", "attention_gate", "gate", "impls.ring:attend", *options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "impls.ring:attend: CONFORMS" in ran.stdout


def test_a_project_of_our_names_keeps_its_own_tests(site: Path, project: Path) -> None:
    """The plugin is found by every run of pytest there."""
    ran = run(site, project, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "1 passed" in ran.stdout


def test_pytest_judges_a_target_there(site: Path, project: Path) -> None:
    options = ["--attention-target", "impls.ring:attend", "--attention-profile", "quick"]
    where = ["--pyargs", "attention_gate", "-k", "forward or dtypes"]
    plugin = ["-p", "no:cacheprovider"]
    ran = run(site, project, "-m", "pytest", "-q", *plugin, *where, *options)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert "2 passed" in ran.stdout
