"""Measuring on the CPU: every row is there, what cannot be measured says why, bad use is one line."""

import importlib
import importlib.util
import json
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from attention_gate.verify.commands import compare
from attention_gate.verify.commands.command_line import main
from attention_gate.verify.compare import floor_kernels, tables
from attention_gate.verify.compare import timing as measure
from attention_gate.verify.compare.timing import _problems
from attention_gate.verify.compare.workloads import WORKLOADS

#: matplotlib is the extra attention-gate[report].
PLOTS = importlib.util.find_spec("matplotlib") is not None


def test_rows_side_by_side(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = tmp_path / "measured.json", tmp_path / "measured.svg", tmp_path / "measured.html"
    status = main(
        [
            *("compare", "impls.collective:attend", "--workload", "tiny,tiny-longnet", "--world-size", "2"),
            *("--json", str(files[0])),
            *(("--plot", str(files[1]), "--html", str(files[2])) if PLOTS else ()),
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
    if PLOTS:
        assert ElementTree.parse(files[1]).getroot().tag.endswith("svg")
        page = files[2].read_text()
        assert page.count('<td class="number">1.000</td>') == 4, "the floor's, forward and both, of two workloads"
        assert f'<td class="number">{sent / (1 << 20):.3g}</td>' in page
        assert "rank 1 waits" in page or "computes, forward" in page
    reported = capsys.readouterr().out
    assert "of floor" in reported
    assert f"{sent / (1 << 20):.3g}\n" in reported


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no.such.module:attend", "--workload", "tiny"], "no.such.module"),
        (["impls.robust:attend", "--workload", "tiny", "--world-size", "0"], "--world-size is 0"),
        (["impls.robust:attend", "--workload", "tiny", "--json", "/no/such/folder/file"], "the folder of"),
        (["impls.robust:attend", "--workload", "tiny", "--cuda-graphs"], "--cuda-graphs needs --device cuda"),
    ],
)
def test_bad_use_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_workload_that_is_not_there_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["compare", "impls.robust:attend", "--workload", "vast"])
    assert "unknown workload 'vast'; choose from" in capsys.readouterr().err


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


@pytest.mark.parametrize(("size", "printed"), [(0, "0.00"), (3 << 20, "3.00"), (98304, "0.0938"), (None, "-")])
def test_sizes_are_printed_however_small(size: int | None, printed: str) -> None:
    entry = {} if size is None else {"sent_bytes": size}
    assert tables._size(entry, "sent_bytes", 20) == printed


def test_what_was_not_measured_says_why() -> None:
    text = tables.text({"tiny": {"floor": {"forward_ms": 1.0, "both_ms": 2.0}, "one": {"error": "did not return"}}})
    assert "did not return" in text


def test_what_is_measured_when_it_is_ended_is_printed_and_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measured(row: str, workloads: Sequence[str], *_: object) -> Iterator[tuple[str, dict[str, Any]]]:
        yield workloads[0], {"forward_ms": 1.0, "both_ms": 2.0}
        raise KeyboardInterrupt

    monkeypatch.setattr(compare, "measure", measured)
    file = tmp_path / "measured.json"
    assert main(["compare", "impls.robust:attend", "--workload", "tiny,tiny-causal", "--json", str(file)]) == 3
    printed = capsys.readouterr()
    assert "stopped early; measured so far" in printed.out
    assert "floor" in printed.out.partition("stopped early")[2]
    assert "tiny: floor: forward 1.00 ms, forward and backward 2.00 ms" in printed.err
    assert json.loads(file.read_text())["rows"] == {
        "tiny": {"floor": {"forward_ms": 1.0, "both_ms": 2.0}},
        "tiny-causal": {},
    }


def test_a_target_that_fails_costs_its_own_rows_alone(capsys: pytest.CaptureFixture[str]) -> None:
    """It has a row that says why, and the others are measured."""
    failing = "tests.verify.hostile.targets.raises:an_error"
    assert main(["compare", failing, "impls.collective:attend", "--workload", "tiny", "--world-size", "2"]) == 1
    table = capsys.readouterr().out
    assert re.search(rf"{failing} +rank \d raised \w+", table)
    assert re.search(r"impls\.collective:attend +\d+\.\d\d", table)


def test_what_takes_longer_than_the_limit_is_given_up(capsys: pytest.CaptureFixture[str]) -> None:
    hanging = "tests.verify.hostile.targets.hangs:sleeps"
    assert main(["compare", hanging, "--workload", "tiny,tiny-causal", "--world-size", "2", "--limit", "3"]) == 1
    table = capsys.readouterr().out
    assert table.count("did not finish") == 2


class Kernels:
    """Kernels that take so many seconds, or are wrong, or raise; none computes anything."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.timed: list[Any] = []
        monkeypatch.setattr(measure, "_slowest", lambda seconds, device: seconds)
        monkeypatch.setattr(measure, "_round", lambda call, calls, device: call.seconds)
        monkeypatch.setattr(measure, "timed", self._timed)

    def _timed(self, call: Any, device: torch.device) -> float:
        self.timed.append(call.name)
        return 1000 * float(call.seconds)

    def taken(self, **calls: tuple[float, float]) -> dict[str, float]:
        """What is found of calls, each as seconds and the value that it returns."""
        return self.taken_as(False, **calls)

    def taken_as(self, as_graphs: bool, **calls: tuple[float, float]) -> dict[str, float]:
        """The same, call by call or as graphs."""
        given = {name: _Call(name, *call) for name, call in calls.items()}
        return measure._taken(given, torch.device("cpu"), as_graphs)


class _Call:
    def __init__(self, name: str, seconds: float, value: float) -> None:
        self.name, self.seconds, self.value = name, seconds, value

    def __call__(self) -> tuple[torch.Tensor]:
        if self.value == float("inf"):
            raise AssertionError("no kernel for these")  # as flash-attn-4 objects
        return (torch.full((4,), self.value),)


def test_the_floor_is_the_fastest_of_all_kernels_that_are_right(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = Kernels(monkeypatch)
    found = kernels.taken(
        first=(2.0, 1.0), slow=(9.0, 1.0), wrong=(0.1, 1.5), none=(0.1, float("inf")), fast=(1.5, 1.0)
    )
    assert found == {"first": 2000.0, "fast": 1500.0}
    assert kernels.timed == ["first", "fast"]


def test_of_graphs_the_floor_is_the_fastest_replay_of_the_kernels_that_can_be_captured(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def captured(call: _Call) -> _Call:
        if call.name == "waits":
            raise RuntimeError("operation not permitted when stream is capturing")
        return _Call(call.name, call.seconds / 2, call.value)

    monkeypatch.setattr(measure, "captured", captured)
    kernels = Kernels(monkeypatch)
    found = kernels.taken_as(True, waits=(0.1, 1.0), first=(2.0, 1.0), fast=(1.5, 1.0))
    assert found == {"first": 1000.0, "fast": 750.0}


ON_GPUS = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@ON_GPUS
def test_passes_are_timed_as_cuda_graphs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A target that reads a number back cannot be captured, and its row says so; the other's is there."""
    waiting = tmp_path / "waiting.py"
    waiting.write_text(
        "from attention_gate.impls import robust\n\n\n"
        "def attend(query, key, value, **options):\n"
        "    assert query.sum().item() == query.sum().item()\n"
        "    return robust.attend(query, key, value, **options)\n"
    )
    options = ["--workload", "longnet-32k", "--device", "cuda", "--world-size", "1", "--cuda-graphs", "--unjudged"]
    assert main(["compare", "impls.robust:attend", f"{waiting}:attend", *options]) == 0
    table = capsys.readouterr().out
    assert "CUDA graphs replayed in a row" in table
    assert re.search(r"impls\.robust:attend +\d+\.\d\d +[01]\.\d\d\d", table)
    assert re.search(r"waiting\.py:attend +not supported: it cannot be captured in a CUDA graph", table)


def test_a_workload_that_no_kernel_takes_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RuntimeError, match="no attention kernel takes this workload: one: AssertionError: no kernel"):
        Kernels(monkeypatch).taken(one=(0.1, float("inf")))


def test_a_result_that_is_not_a_number_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(Kernels(monkeypatch).taken(first=(2.0, 1.0), broken=(0.1, float("nan")))) == ["first"]


def test_the_table_says_whose_kernels_the_floor_is() -> None:
    entry = {
        "forward_ms": 1.0,
        "both_ms": 2.0,
        "kernels": [["flash-attn-4"], ["cuDNN", "flash-attn-4"]],
        "by_kernel": {"cuDNN": [1.5, 2.5]},
        "without": {"flash-attn-4": "it is not installed"},
    }
    *_, line, without = tables.text({"tiny": {"floor": entry}}).splitlines()
    assert (
        line == "the floor is that of flash-attn-4 fwd and cuDNN, flash-attn-4 fwd+bwd (alone: cuDNN 1.50 and 2.50 ms)"
    )
    assert without == "without flash-attn-4: it is not installed"


def test_a_package_that_cannot_be_imported_is_left_out_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    package = tmp_path / "flash_attn" / "cute"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("import no_such_compiler\n")
    monkeypatch.syspath_prepend(tmp_path)
    floor_kernels._imported.cache_clear()
    cuda = torch.device("cuda")
    assert list(floor_kernels.kernels(cuda)) == ["cuDNN", "torch's FlashAttention-2"]
    assert floor_kernels.objection(cuda) == "ModuleNotFoundError: No module named 'no_such_compiler'"
    assert floor_kernels.objection(torch.device("cpu")) == ""
    floor_kernels._imported.cache_clear()
    (package / "__init__.py").write_text("def flash_attn_func(query, key, value, causal): return value, None  # new\n")
    importlib.invalidate_caches()
    kernel = floor_kernels.kernels(cuda)["flash-attn-4"]
    value = torch.ones(1, 2, 3, 4)
    assert kernel(value, value, value, False).shape == value.shape
    for name in ("flash_attn", "flash_attn.cute"):
        monkeypatch.delitem(sys.modules, name)
    floor_kernels._imported.cache_clear()
