"""The house in order: docstrings, sizes, versions that agree, one public face, no trace of any one machine."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

import attention_gate
from attention_gate import impls, reference
from attention_gate.verify.commands.machine import SUPPORTED
from tests.house.test_imports import PACKAGES, ROOT, files, name_of

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOX = (ROOT / "tox.ini").read_text()
README = (ROOT / "README.md").read_text()

SOURCES = [path for package in PACKAGES for path in files(package)]


def tracked():
    """The files of the repository, or of the folder where there is no repository."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        return [
            path
            for path in ROOT.rglob("*")
            if path.is_file() and not {".tox", ".venv", ".hypothesis"} & set(path.parts)
        ]
    return [path for name in listed.stdout.splitlines() if (path := ROOT / name).is_file()]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_everything_public_says_what_it_is(path):
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), f"{path.name} has no docstring"
    for node in () if path.stem.startswith("_") and path.stem != "__init__" else _public(tree):
        assert ast.get_docstring(node) or _is_a_stub(node), f"{path.name}:{node.lineno} {node.name} has no docstring"


def _public(tree):
    """Functions and classes that others may use, and the methods of those classes."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            yield node
            # A class of another library, perhaps under a private name, says itself what its methods do.
            foreign = [base for base in getattr(node, "bases", ()) if re.search(r"\.|^_", ast.unparse(base))]
            if isinstance(node, ast.ClassDef) and not foreign:
                yield from (part for part in _public(node) if isinstance(part, ast.FunctionDef))


def _is_a_stub(node):
    """Nothing but ``...``: what it does is nothing."""
    return ast.unparse(node.body[-1]) == "..."


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_a_file_has_one_subject_and_so_is_short(path):
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("package", [reference, impls, attention_gate], ids=lambda package: package.__name__)
def test_the_public_face_is_flat_documented_and_complete(package):
    assert package.__doc__
    assert package.__all__ == sorted(
        package.__all__, key=lambda name: (not name.isupper(), not name[0].isupper(), name)
    )
    for name in package.__all__:
        found = getattr(package, name)
        assert getattr(found, "__doc__", None), f"{package.__name__}.{name} has no docstring"
        assert name in dir(package)
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name


def test_no_public_name_is_hidden_by_a_module():
    modules = {path.stem for path in (ROOT / "attention_gate").iterdir()}
    assert modules & set(attention_gate.__all__) == set()


#: Written so that this file does not contain them.
TRACES = [re.compile(pattern) for pattern in (r"/wor[k]/", r"/hom[e]/", r"/roo[t]/", r"/Users?[/]", r"/opt/pyp[i]")]


def test_no_file_mentions_the_machine_that_it_was_written_on():
    found = []
    for path in tracked():
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        found += [f"{path.relative_to(ROOT)}: {trace.pattern}" for trace in TRACES if trace.search(text)]
    assert found == []


def _bounds(specifier):
    low = re.search(r">=([\d.]+)", specifier)
    high = re.search(r"<([\d.]+)", specifier)
    return low and low[1], high and high[1]


def _dependency(name):
    return next(entry for entry in PROJECT["dependencies"] if re.match(rf"{name}\b(?!-)", entry))


def _number(version):
    return tuple(map(int, version.split(".")[:2]))


def test_the_supported_versions_agree_everywhere():
    assert _bounds(PROJECT["requires-python"]) == SUPPORTED["python"]
    assert _bounds(_dependency("torch")) == SUPPORTED["torch"]
    assert _bounds(_dependency("numpy")) == SUPPORTED["numpy"]
    for name in ("python", "torch"):
        low, high = SUPPORTED[name]
        last = f"{_number(high)[0]}.{_number(high)[1] - 1}"
        assert f"{name} {low} to {last}" in README.replace("Python", "python"), name


def test_the_version_of_torch_that_tox_installs_is_supported():
    [version] = set(re.findall(r"torch==([\d.]+)", TOX))
    low, high = SUPPORTED["torch"]
    assert _number(low) <= _number(version) < _number(high)


def test_every_environment_of_tox_has_one_thread():
    assert "\n    OMP_NUM_THREADS = 1\n" in TOX.partition("[testenv:")[0]
    assert "set_env" not in TOX.partition("[testenv:")[2]


def test_the_tests_run_last():
    environments = re.search(r"env_list = (.*)", TOX)[1].split(", ")
    assert environments == ["lint", "wheel", "checkout"]
    checkout = TOX.partition("[testenv:checkout]")[2]
    assert checkout.index("gate impls.robust:attend") < checkout.index("{[testenv:tests]commands}")


def test_the_changelog_knows_this_version():
    assert f"## {PROJECT['version']}" in (Path(ROOT) / "CHANGELOG.md").read_text()
