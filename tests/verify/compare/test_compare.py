"""Measuring on the CPU: every row is there, what cannot be measured says why, bad use is one line."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from verify.cli import main
from verify.compare import tables
from verify.compare.measure import _problems
from verify.compare.workloads import WORKLOADS


def test_rows_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "measured.json", tmp_path / "measured.svg"
    status = main(
        [
            *("compare", "impls.collective:attend", "--workload", "tiny,tiny-longnet", "--world-size", "2"),
            *("--json", str(files[0]), "--plot", str(files[1])),
        ]
    )
    assert status == 0
    rows = json.loads(files[0].read_text())["rows"]
    assert list(rows) == ["tiny", "tiny-longnet"]
    for measured in rows.values():
        assert list(measured) == ["floor", "impls.collective:attend"]
        for entry in measured.values():
            assert entry["forward_ms"] > 0
            assert entry["both_ms"] > 0
    assert ElementTree.parse(files[1]).getroot().tag.endswith("svg")
    assert "of floor" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.such.module:attend", "--workload", "tiny"], "no.such.module"),
        (["impls.robust:attend", "--workload", "tiny", "--world-size", "0"], "--world-size is 0"),
        (["impls.robust:attend", "--workload", "tiny", "--json", "/no/such/folder/file"], "the folder of"),
    ],
)
def test_bad_use_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_workload_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "impls.robust:attend", "--workload", "vast"])
    assert "there is no workload 'vast'" in capsys.readouterr().err


@pytest.mark.parametrize("name", WORKLOADS)
def test_the_floor_is_the_work_of_one_rank_evenly_balanced(name: str) -> None:
    """Pairs of query and key, counted from the problems and from the definition."""
    workload = WORKLOADS[name]
    counted = sum(
        share * batch * queries * (keys / 2 if is_causal else keys)
        for batch, queries, keys, is_causal, share in _problems(workload, 4)
    )
    defined = sum(
        workload.rows / rate * length / rate / (2 if workload.is_causal else 1)
        for length, rate in zip(workload.lengths(4), workload.dilation_rates, strict=True)
    )
    assert counted == pytest.approx(defined)


def test_what_was_not_measured_says_why() -> None:
    text = tables.text({"tiny": {"floor": {"forward_ms": 1.0, "both_ms": 2.0}, "one": {"error": "did not return"}}})
    assert "did not return" in text
