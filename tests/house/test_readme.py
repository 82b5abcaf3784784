"""What the README says is what happens: its commands, its figures, its output, its examples."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

import attention_gate
from attention_gate import reference
from attention_gate.verify.checks import CHECKS
from attention_gate.verify.checks.profiles import PROFILES, examples
from attention_gate.verify.report.text import failure_text
from tests.verify.broken import broken_robust

REPOSITORY = Path(__file__).parents[2]
README = (REPOSITORY / "README.md").read_text()


def block(name: str) -> str:
    """What stands between the marks of that name."""
    found = re.search(rf"<!-- begin: {re.escape(name)} -->\n(.*?)<!-- end -->", README, re.DOTALL)
    assert found, f"the README has no block {name!r}"
    return found[1].strip()


def test_the_test_command_is_what_ci_runs() -> None:
    commands = [line for line in README.splitlines() if line.startswith("python3.11 -m venv")]
    assert len(commands) == 2
    judging, testing = commands
    assert testing in (REPOSITORY / ".ci" / "run").read_text()
    assert judging == f"{testing} -e gate"


def test_every_check_is_listed_with_its_promise() -> None:
    listed = "\n".join(f"- `{check.name}`: the target {check.promise}." for check in CHECKS)
    assert block("checks") == listed


def test_the_profiles_are_as_large_as_it_says() -> None:
    for profile in PROFILES:
        total = sum(examples(profile, check.weight) for check in CHECKS)
        row = next(line for line in README.splitlines() if line.startswith(f"| `{profile}`"))
        stated = int(row.split("|")[3].replace(",", ""))
        assert stated == pytest.approx(total, rel=0.1), f"{profile} has {total} examples"


def test_the_failure_that_it_shows_is_the_one_that_is_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = "python -m attention_gate gate broken_local_mask.robust:attend --checks forward"
    monkeypatch.syspath_prepend(str(tmp_path))
    target = broken_robust("local_mask", tmp_path)
    report = attention_gate.check(target, checks=["forward"], save=str(tmp_path / "attention-gate-failures"))
    [check] = report.checks
    assert check.failure is not None
    printed = failure_text(check, check.failure, report.target).replace(f"{tmp_path}/", "")
    assert block(command) == f"```\n{printed}\n```"
    assert command.removeprefix("python -m attention_gate gate ").split()[0] == target


def test_the_example_of_the_reference_runs() -> None:
    code = next(part for part in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "import numpy" in part)
    names: dict[str, object] = {}
    exec(code, names)
    assert isinstance(names["out"], np.ndarray)
    assert names["out"].shape == (1, 7, 2, 4)
    assert names["attention_gate"].reference is reference
