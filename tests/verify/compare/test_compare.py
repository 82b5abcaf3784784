"""Measuring on the CPU: every row is there, what cannot be measured says why, bad use is one line."""

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch

from verify.cli import main
from verify.compare import measure, tables
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
    dense = WORKLOADS["tiny"]
    shard = 2 * dense.rows * dense.heads * dense.head_dim * 4  # keys and values: there, there again, and gradients back
    sent = rows["tiny"]["impls.collective:attend"]["sent_bytes"]
    assert 3 * shard <= sent < 3.01 * shard
    assert "sent_bytes" not in rows["tiny"]["floor"]
    assert ElementTree.parse(files[1]).getroot().tag.endswith("svg")
    told = capsys.readouterr().out
    assert "of floor" in told
    assert f"{sent / (1 << 20):.3g}\n" in told


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


def test_calls_in_a_row_are_timed_as_many_as_fill_a_tenth_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same number on all ranks, whichever was slower at first; the time of one is a share of theirs."""
    rounds: list[int] = []

    def taken(_: object, calls: int, __: object) -> float:
        rounds.append(calls)
        return 0.02 * calls

    monkeypatch.setattr(measure, "_round", taken)
    monkeypatch.setattr(measure, "_slowest", lambda seconds, _: 2 * seconds)
    assert measure.timed(lambda: None, torch.device("cpu")) == pytest.approx(40.0)
    assert rounds == [1, 1, 3, 3, 3, 3, 3]
    monkeypatch.setattr(measure, "_slowest", lambda seconds, _: seconds)
    measure.timed(lambda: None, torch.device("cpu"))
    assert rounds[7:] == [1, 1, 5, 5, 5, 5, 5]


@pytest.mark.parametrize(("size", "told"), [(0, "0.00"), (3 << 20, "3.00"), (98304, "0.0938"), (None, "-")])
def test_sizes_are_told_however_small(size: int | None, told: str) -> None:
    entry = {} if size is None else {"sent_bytes": size}
    assert tables._size(entry, "sent_bytes", 20) == told


def test_what_was_not_measured_says_why() -> None:
    text = tables.text({"tiny": {"floor": {"forward_ms": 1.0, "both_ms": 2.0}, "one": {"error": "did not return"}}})
    assert "did not return" in text
