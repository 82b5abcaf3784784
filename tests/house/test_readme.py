"""What the README and docs/ say is what happens: commands, figures, printed output, examples."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

import numpy as np
import pytest

import attention_gate
from attention_gate import reference
from attention_gate.verify.checks import CHECKS
from attention_gate.verify.checks.profiles import PROFILES
from attention_gate.verify.commands import gate
from attention_gate.verify.report.text import failure_text

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()


def page(name: str) -> str:
    return (REPOSITORY / "docs" / name).read_text()


def block(name: str) -> str:
    """The text between the marks of that name."""
    found = re.search(rf"<!-- begin: {re.escape(name)} -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert found, f"the README has no block {name!r}"
    return found[1].strip()


def code(text: str, words: str) -> str:
    """The one Python example that contains these words."""
    [found] = [part for part in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if words in part]
    return found


def test_the_test_command_is_what_ci_runs() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3.11 -m venv")]
    assert len(commands) == 2
    judging, testing = commands
    assert testing in (REPOSITORY / ".ci" / "run").read_text()
    assert judging == f"{testing} -e gate"


def test_every_check_is_listed_with_its_promise() -> None:
    listed = "\n".join(f"- `{check.name}`: the target {check.promise}." for check in CHECKS)
    assert block("checks") == listed


def test_every_check_is_explained() -> None:
    headings = re.findall(r"^\*\*(.+?)\.\*\*", page("conforms.md"), re.MULTILINE)
    explained = [name for heading in headings for name in re.findall(r"`([a-z-]+)`", heading)]
    assert sorted(explained) == sorted(check.name for check in CHECKS)


def test_the_profiles_are_as_large_as_it_says() -> None:
    parser = argparse.ArgumentParser()
    gate.add_arguments(parser)
    printed = parser.format_help()
    for profile in PROFILES:
        total = sum(check.examples(profile) for check in CHECKS)
        row = next(line for line in page("conforms.md").splitlines() if line.startswith(f"| `{profile}`"))
        stated = row.split("|")[3].strip()
        assert int(stated.replace(",", "")) == pytest.approx(total, rel=0.02), f"{profile} has {total} examples"
        assert stated in printed


def test_the_failure_that_it_shows_is_what_its_example_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "attention-gate gate mine.py:target --profile quick"
    assert command in README.replace(f"<!-- begin: {command} -->", "")
    (tmp_path / "mine.py").write_text(code(README, "dist.all_gather"))
    monkeypatch.chdir(tmp_path)
    checks = ["forward", "gradients"]
    report = attention_gate.check("mine.py:target", profile="quick", checks=checks, save="attention-gate-failures")
    forward, gradients = report.checks
    assert forward.outcome == "pass"
    assert gradients.failure is not None
    printed = failure_text(gradients, gradients.failure, dense=report.dense, called="attention-gate")
    assert block(command) == f"```\n{printed}\n```"


def test_the_example_of_the_readme_conforms_once_it_sums_gradients(tmp_path: Path) -> None:
    wrong = code(README, "dist.all_gather")
    gather = re.search(r"attention_gate\.gather_rows\(.*?\)(?=`)", README)
    assert gather
    inner = re.search(r"    def whole.*?\n\n", wrong, re.DOTALL)
    assert inner
    swapped = f"    key, value = (rows.transpose(1, 2) for rows in {gather[0]})\n"
    right = wrong.replace(inner[0], swapped).replace("whole(key), whole(value)", "key, value")
    (tmp_path / "repaired.py").write_text(right)
    report = attention_gate.check(f"{tmp_path}/repaired.py:target", profile="quick")
    assert report.verdict == "pass", attention_gate.text(report)


def test_the_example_of_the_reference_runs() -> None:
    names: dict[str, object] = {}
    exec(code(page("semantics.md"), "import numpy"), names)
    assert isinstance(names["out"], np.ndarray)
    assert names["out"].shape == (1, 7, 2, 4)
    assert names["attention_gate"].reference is reference  # type: ignore[attr-defined]


@pytest.mark.parametrize("path", [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").glob("*.md"))], ids=str)
def test_links_lead_to_files_that_exist(path: Path) -> None:
    links = re.findall(r"\]\((?!https?://|#)([^)#]+)", path.read_text())
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_the_readme_lists_every_page() -> None:
    assert {f"docs/{path.name}" for path in (REPOSITORY / "docs").glob("*.md")} == set(
        re.findall(r"^\| \[(docs/\w+\.md)\]", README, re.MULTILINE)
    )
