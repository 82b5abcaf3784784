"""What a contributor meets: the workflow, the forms, the hooks and CONTRIBUTING.md agree with the project."""

from __future__ import annotations

import importlib.util
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from attention_gate.verify.mutants import MUTANTS
from tests.house.test_imports import ORDER

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
TOX = (ROOT / "tox.ini").read_text()
GUIDE = (ROOT / "CONTRIBUTING.md").read_text()
YAML_FILES = sorted([*(ROOT / ".github").rglob("*.yml"), ROOT / ".pre-commit-config.yaml"])


class Yaml:
    """The part of YAML that these files use: block mappings and lists, flow lists of scalars, strings.

    PyYAML is no dependency of the tests. Everything outside this part is refused, so nothing is read wrongly.
    """

    def __init__(self, text: str) -> None:
        assert "\t" not in text, "a tab"
        lines = [line.rstrip() for line in text.splitlines()]
        self.lines = [line for line in lines if line and not line.lstrip().startswith("#")]

    def load(self) -> Any:
        value = self.node(0)
        assert not self.lines, f"indentation: {self.lines[0]!r}"
        return value

    def indent(self) -> int:
        return len(self.lines[0]) - len(self.lines[0].lstrip()) if self.lines else -1

    def node(self, indent: int) -> Any:
        return self.sequence(indent) if self.lines[0].lstrip().startswith("- ") else self.mapping(indent)

    def sequence(self, indent: int) -> list[Any]:
        found = []
        while self.indent() == indent and self.lines[0].lstrip().startswith("- "):
            rest = self.lines[0].lstrip()[2:]
            if re.match(r"[\w-]+:( |$)", rest):
                self.lines[0] = " " * (indent + 2) + rest
                found.append(self.mapping(indent + 2))
            else:
                self.lines.pop(0)
                found.append(self.scalar(rest))
        return found

    def mapping(self, indent: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while self.indent() == indent and not self.lines[0].lstrip().startswith("- "):
            match = re.fullmatch(r"([\w-]+):(?: (.+))?", self.lines.pop(0).strip())
            assert match, f"no key and value in a mapping that has {list(found)}"
            key, value = match.groups()
            assert key not in found, f"{key} twice"
            if value is not None:
                found[key] = self.scalar(value)
            elif self.indent() > indent:
                found[key] = self.node(self.indent())
            else:
                found[key] = None
        return found

    def scalar(self, text: str) -> Any:
        if text.startswith("["):
            assert text.endswith("]"), text
            return [self.scalar(part.strip()) for part in text[1:-1].split(",")]
        if text.startswith('"'):
            assert re.fullmatch(r'"[^"\\]*"', text), text
            return text[1:-1]
        assert not re.search(r": | #|:$", text), f"needs quotes: {text}"
        assert text[0] not in "{}&*!|>'%@`?,]" or text.startswith("${{"), f"not in the part that is read: {text}"
        return {"true": True, "false": False}.get(text, text)


def loaded(path: Path) -> Any:
    return Yaml(path.read_text()).load()


WORKFLOW = loaded(ROOT / ".github" / "workflows" / "tests.yml")


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_a_yaml_file_can_be_read(path: Path) -> None:
    assert loaded(path)


def test_where_pyyaml_is_installed_it_reads_the_same() -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is no dependency of the tests")

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(entry) for key, entry in value.items()}
        if isinstance(value, list):
            return [plain(entry) for entry in value]
        return "" if value is None else str(value).lower() if isinstance(value, bool) else value

    for path in YAML_FILES:
        # BaseLoader reads all scalars as strings, so that the key `on` stays a string.
        assert plain(loaded(path)) == yaml.load(path.read_text(), Loader=yaml.BaseLoader), path


def test_the_workflow_runs_on_the_supported_versions_of_python() -> None:
    found = re.fullmatch(r">=3\.(\d+),<3\.(\d+)", PROJECT["requires-python"])
    assert found
    supported = [f"3.{minor}" for minor in range(int(found[1]), int(found[2]))]
    assert WORKFLOW["jobs"]["tox"]["strategy"]["matrix"]["python"] == supported


def test_the_workflow_runs_every_environment_of_tox() -> None:
    listed = re.search(r"env_list = (.*)", TOX)
    assert listed
    environments = WORKFLOW["jobs"]["tox"]["strategy"]["matrix"]["environment"]
    assert {*environments, "lint"} == set(listed[1].split(", "))
    assert "tox -e lint" in [step.get("run") for step in WORKFLOW["jobs"]["lint"]["steps"]]


def test_actions_are_pinned_to_a_major_version() -> None:
    used = [step["uses"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "uses" in step]
    assert used
    assert [action for action in used if not re.fullmatch(r"actions/[\w-]+@v\d+", action)] == []


def test_the_hooks_have_the_versions_of_tox() -> None:
    [repository] = loaded(ROOT / ".pre-commit-config.yaml")["repos"]
    hooks = {hook["id"]: hook for hook in repository["hooks"]}
    assert set(hooks) == {"ruff-check", "ruff-format", "mypy"}
    for name in ("ruff-check", "ruff-format"):
        [dependency] = hooks[name]["additional_dependencies"]
        assert re.search(rf"^deps = {re.escape(dependency)}$", TOX, re.MULTILINE)
    assert "tox -qq -e types" in hooks["mypy"]["entry"]


@pytest.mark.parametrize("name", ["bug", "right_program_rejected", "wrong_program_passed"])
def test_a_form_asks_for_what_is_needed_to_see_it_again(name: str) -> None:
    form = loaded(ROOT / ".github" / "ISSUE_TEMPLATE" / f"{name}.yml")
    fields = {field["id"]: field for field in form["body"]}
    required = {key for key, field in fields.items() if field.get("validations") == {"required": True}}
    assert "doctor" in required
    assert "attention-gate doctor" in fields["doctor"]["attributes"]["label"]
    assert ("replay" if name != "wrong_program_passed" else "target") in required


def test_the_map_has_the_folders_of_verify_in_their_order() -> None:
    [tree] = [block for block in re.findall(r"```\n(.*?)```", GUIDE, re.DOTALL) if "reference/" in block]
    inside = tree.partition("verify/ ")[2].partition("\ntests/")[0]
    assert re.findall(r"^    (\w+)/ ", inside, re.MULTILINE) == list(ORDER)


def test_the_files_that_the_guide_names_exist() -> None:
    text = re.sub(r"\w*(?:NAME|LIBRARY)\w*\.py", "", GUIDE)
    paths = set(re.findall(r"\b(?:verify|tests|benchmarks|examples|docs)/[\w./-]*\w", text))
    assert len(paths) > 20
    assert sorted(path for path in paths if not (ROOT / path).exists()) == []


def test_the_modules_that_the_guide_runs_exist() -> None:
    modules = set(re.findall(r"python -m ([\w.]+)", GUIDE))
    assert len(modules) > 5
    assert [name for name in sorted(modules) if importlib.util.find_spec(name) is None] == []


def test_the_names_that_the_guide_uses_exist() -> None:
    named = re.findall(r"--only (\w+)", GUIDE)
    assert named[0] in {mutant.name for mutant in MUTANTS}
    environments = {*re.findall(r"\[testenv:(\w+)\]", TOX)}
    assert set(re.findall(r"tox -e (\w+)", GUIDE)) <= environments
