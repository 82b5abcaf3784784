"""The pytest plugin, in pytest runs of its own: what is collected, what is printed, what it costs those without it."""

import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from attention_gate.verify.checks import CHECKS

pytest_plugins = "pytester"

ROOT = Path(__file__).parents[2]
INSTALLED = bool(importlib.metadata.entry_points(group="pytest11", name="attention_gate"))

RIGHT = "tests.verify.targets:right"

#: Checks that every run of these tests selects: the others take their time elsewhere.
FEW = "forward or gradients or dtypes"


def run(folder, *arguments, plugin=True):
    """pytest in a folder that has nothing to do with this repository."""
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-c", os.devnull, "--rootdir", str(folder)]
    if plugin and not INSTALLED:
        command += ["-p", "attention_gate.verify.pytest_plugin"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for name in ("PYTEST_ADDOPTS", "PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_CURRENT_TEST"):
        environment.pop(name, None)
    done = subprocess.run(
        [*command, *map(str, arguments)],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


def judging(folder, target, *arguments):
    """pytest --pyargs attention_gate for a target of these tests."""
    few = ("--attention-profile", "quick", "--attention-world-sizes", "1,2", "-k", FEW)
    return run(folder, "--pyargs", "attention_gate", "--attention-target", target, *few, *arguments)


def outcomes(output):
    """The outcome of each check, as -v prints it."""
    return dict(re.findall(r"attention-gate::([\w-]+) (\w+)", output))


def test_a_right_target_passes_one_test_for_each_check(tmp_path):
    status, output = judging(tmp_path, "tests.verify.targets:right", "-v")
    assert status == 0, output
    assert outcomes(output) == dict.fromkeys(("forward", "gradients", "dtypes"), "PASSED")
    assert "attention gate: judging tests.verify.targets:right, profile quick, world sizes 1,2, seed 0" in output
    assert re.search(r"attention gate: tests\.verify\.targets:right: 3 pass \(\d+ examples\)", output)


def test_a_wrong_one_fails_with_the_report_and_blocks_what_builds_on_it(tmp_path):
    saved = tmp_path / "failures"
    status, output = judging(tmp_path, "tests.verify.targets:causal_ignored", "-v", "-rs", "--attention-save", saved)
    assert status == 1
    assert outcomes(output) == {"forward": "FAILED", "gradients": "BLOCKED", "dtypes": "BLOCKED"}
    assert "attention gate: not tried: gradients, dtypes: blocked: builds on forward, which did not pass" in output
    assert "minimal case: Case(world_size=1, length=2" in output
    assert "expected: the target returns the oracle's output" in output
    assert "Traceback" not in output
    assert "pytest_plugin.py:" not in output.partition("short test summary")[0]
    assert f"python -m attention_gate replay {saved}" in output
    assert len(list(saved.iterdir())) == 1


def test_what_is_not_supported_is_skipped_with_its_reason(tmp_path):
    status, output = judging(tmp_path, "tests.verify.targets:few", "-rs", "-k", "gradients or lse")
    assert status == 0, output
    assert re.search(r"UNSUPPORTED \[1\] .*: unsupported: the target declares no gradients", output)
    assert "2 unsupported" in output
    assert "attention gate: not tried: gradients: unsupported: the target declares no gradients" in output


def test_checks_are_chosen_and_claims_are_added(tmp_path):
    chosen = ("--attention-checks", "lse,traffic", "--attention-claims", "traffic", "--collect-only", "-q")
    status, output = run(tmp_path, "--pyargs", "attention_gate", "--attention-target", RIGHT, *chosen)
    assert status == 0, output
    assert re.findall(r"^attention-gate::(.*)$", output, re.MULTILINE) == ["lse", "traffic"]


def test_it_is_safe_under_xdist(tmp_path):
    status, output = judging(tmp_path, "tests.verify.targets:right", "-n", "2")
    assert status == 0, output
    assert "3 passed" in output
    assert "attention gate: tests.verify.targets:right: 3 pass" in output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--attention-target", "nowhere_at_all:attend"), "no module named 'nowhere_at_all'"),
        (
            ("--attention-target", RIGHT, "--attention-profile", "fast"),
            "profile is 'fast'; it must be one of",
        ),
        (("--attention-target", RIGHT, "--attention-checks", "foward"), "did you mean 'forward'?"),
        (("--attention-target", RIGHT, "--attention-claims", "wires"), "did you mean 'wire'?"),
        (
            ("--attention-target", RIGHT, "--attention-world-sizes", "1,x"),
            "is not a list of numbers from 1 to 64",
        ),
    ],
)
def test_an_error_of_use_is_one_line(pytester, options, words):
    loaded = () if INSTALLED else ("-p", "attention_gate.verify.pytest_plugin")
    done = pytester.runpytest_inprocess(*loaded, "-c", os.devnull, "--pyargs", "attention_gate", *options)
    assert done.ret == pytest.ExitCode.USAGE_ERROR
    printed = f"{done.stdout}{done.stderr}"
    assert words in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("options", [(), ("-n", "2")])
def test_a_target_is_needed(tmp_path, options):
    status, output = run(tmp_path, "--pyargs", "attention_gate", *options)
    assert status == pytest.ExitCode.USAGE_ERROR, output
    assert "there is nothing to judge without --attention-target: pytest --pyargs attention_gate --att" in output
    assert "Traceback" not in output


def test_every_check_is_collected_by_its_name(tmp_path):
    status, output = run(
        tmp_path,
        "--collect-only",
        "-q",
        "--pyargs",
        "attention_gate",
        "--attention-target",
        "tests.verify.targets:right",
    )
    assert status == 0, output
    assert re.findall(r"^attention-gate::(.*)$", output, re.MULTILINE) == [check.name for check in CHECKS]


def test_runs_that_do_not_use_it_neither_see_it_nor_pay_for_torch(tmp_path):
    (tmp_path / "test_other.py").write_text(
        "import sys\ndef test_other():\n    assert not {'torch', 'numpy', 'impls'} & set(sys.modules)\n"
    )
    status, output = run(tmp_path, "-W", "error", "-p", "no:hypothesispytest")
    assert status == 0, output
    said = [line for line in output.splitlines() if not line.startswith("plugins: ")]  # pytest's own list
    assert "attention" not in "\n".join(said)
    assert "1 passed" in output


def test_a_user_s_own_test_judges_by_a_call(tmp_path):
    (tmp_path / "test_mine.py").write_text(
        "import attention_gate\n"
        "from tests.verify.targets import causal_ignored\n\n"
        "def test_attend():\n"
        "    report = attention_gate.check(causal_ignored, profile='quick', world_sizes=[1], checks=['forward'])\n"
        "    assert report.verdict == 'pass', attention_gate.text(report)\n"
    )
    status, output = run(tmp_path)
    assert status == 1
    assert "FAIL  forward: the output is wrong" in output
    assert "causal_ignored: DOES NOT CONFORM" in output
