"""What is timed is judged: a fast wrong target is marked, in the table, the plot and the exit status."""

import re
from pathlib import Path
from typing import Any

import pytest

from attention_gate.verify.commands.command_line import main
from attention_gate.verify.compare import judged_rows, tables
from attention_gate.verify.compare.judged_rows import judged
from attention_gate.verify.compare.workloads import WORKLOADS

RIGHT = "impls.collective:attend"
ALONE = """
import torch.nn.functional as F
import attention_gate

def attend(query, key, value, *, is_causal, **_):
    rows = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return F.scaled_dot_product_attention(*rows, is_causal=is_causal).transpose(1, 2)

def gradients_alone(query, key, value, *, group, **_):
    keys, values = attention_gate.gather_rows(key.detach(), value.detach(), group=group)
    own = attend(query, key, value, is_causal=False)
    whole = attend(query, keys, values, is_causal=False)
    return own + (whole - own).detach()

fast = attention_gate.Target(attend=attend, branches="dense")
half_right = attention_gate.Target(attend=gradients_alone, branches="dense", masks=(False,))
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "fast_targets.py"
    path.write_text(ALONE)
    return str(path)


def test_a_fast_wrong_target_is_marked_beside_a_right_one(file: str, capsys: pytest.CaptureFixture[str]) -> None:
    status = main(["compare", f"{file}:fast", RIGHT, "--workload", "tiny-causal", "--world-size", "2"])
    assert status == 1
    printed = capsys.readouterr()
    number = r" +\d+\.\d\d"
    assert re.search(rf"{file}:fast{number} +WRONG{number} +WRONG ", printed.out)
    assert re.search(rf"{RIGHT}{number} +\d\.\d\d\d{number} +\d\.\d\d\d ", printed.out)
    assert f"WRONG: {file}:fast: the output is wrong in " in printed.out
    assert f"tiny-causal: {RIGHT}: right in all rows" in printed.err


@pytest.mark.parametrize("dense", [True, False])
def test_outputs_and_gradients_are_judged_in_all_rows_or_in_some(
    file: str, dense: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not dense:
        monkeypatch.setattr(judged_rows, "_DENSE", 0)
    for target, workloads, what in (
        (f"{file}:fast", ["tiny-causal"], "the output is wrong"),
        (f"{file}:half_right", ["tiny"], "the gradient of query is wrong"),
        (RIGHT, ["tiny", "tiny-longnet"], ""),
    ):
        found = judged(target, workloads, 2, "cpu", 120.0)
        assert list(found) == workloads
        for said in found.values():
            assert said.get("wrong", "").startswith(what)
            assert ("wrong" in said) == bool(what)
            assert ("all rows" in said["judged"]) == dense


def test_a_workload_too_long_for_the_dense_oracle_has_fewer_random_queries() -> None:
    case = judged_rows.whole(WORKLOADS["dense-32k"], 8)
    assert case.length**2 * case.heads > judged_rows._DENSE
    assert judged_rows._FEWEST_QUERIES <= judged_rows._queries(case) < judged_rows.RANDOM_QUERIES


def test_a_wrong_row_has_no_fraction() -> None:
    rows: dict[str, dict[str, dict[str, Any]]] = {
        "tiny": {
            "floor": {"forward_ms": 1.0, "both_ms": 2.0},
            "fast": {"forward_ms": 0.1, "both_ms": 0.2, "wrong": "all of it"},
            "slow": {"forward_ms": 2.0, "both_ms": 4.0, "judged": "all rows"},
        }
    }
    assert tables.fractions(rows) == {"tiny": {"slow": 0.5}}
    text = tables.text(rows)
    assert "WRONG: fast: all of it" in text
    assert "10.0" not in text
