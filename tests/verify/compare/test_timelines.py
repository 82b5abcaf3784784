"""Targets' timelines side by side: what is drawn, what is said of those that hang, and what is refused in one line."""

import argparse
import re
import shlex
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from attention_gate.verify.commands import compare
from attention_gate.verify.commands.command_line import main
from attention_gate.verify.compare import drawn_runs as timelines
from attention_gate.verify.compare.workloads import WORKLOADS

ROOT = Path(__file__).parents[3]
UNBATCHED = "tests.verify.network.mistakes:unbatched"
BATCHED = "tests.verify.network.ring:attend"


@pytest.fixture
def unmeasured(monkeypatch: pytest.MonkeyPatch) -> None:
    """Times are not what these tests are about."""

    def measured(row: str, workloads: Sequence[str], *_: object) -> Iterator[tuple[str, dict[str, Any]]]:
        yield from ((name, {"forward_ms": 1.0, "both_ms": 2.0}) for name in workloads)

    monkeypatch.setattr(compare, "measure", measured)


def texts(path: Path) -> list[str]:
    """All that is written in the picture."""
    return [element.text or "" for element in ElementTree.parse(path).iter() if element.tag.endswith("}text")]


def command(*targets: str, file: Path, size: int = 3, workload: str = "tiny") -> list[str]:
    return ["compare", *targets, f"--workload={workload}", f"--world-size={size}", f"--timelines={file}", "--unjudged"]


@pytest.mark.usefixtures("unmeasured")
def test_a_deadlock_is_drawn_and_reported_beside_a_target_that_returns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "two.svg"
    assert main(command(BATCHED, UNBATCHED, file=file)) == 1
    written = texts(file)
    assert [text for text in written if text in (BATCHED, UNBATCHED)] == [BATCHED, UNBATCHED]
    assert written.count("rank 2") == 2
    deadlock = "deadlock: rank 0 waits for rank 1, which waits for rank 2, which waits for rank 0"
    assert deadlock in written
    bars = [bar for bar in ElementTree.parse(file).iter() if bar.tag.endswith("}rect")]
    never = [bar for bar in bars if any((e.text or "").startswith("never r") for e in bar)]
    edges = [float(bar.attrib["x"]) + float(bar.attrib["width"]) for bar in never]
    assert edges == pytest.approx([1070.0] * 3, abs=0.2)  # to the end of the longer run beside it
    assert [f"rank {rank} waits for rank {(rank + 1) % 3}" for rank in range(3)] == [
        text for text in written if re.fullmatch(r"rank \d waits for rank \d", text)
    ]
    assert any(re.match(r"waits at ring\.py:\d+ in finish", text) for text in written)
    printed = capsys.readouterr().out
    assert f"{UNBATCHED}: {deadlock}\n" in printed
    assert "as on NCCL" in printed
    assert f"{BATCHED}: " not in printed


@pytest.mark.usefixtures("unmeasured")
def test_one_target_alone_on_several_workloads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "one.svg"
    assert main(command(BATCHED, file=file, size=2, workload="tiny-causal,tiny-longnet")) == 0
    assert [text for text in texts(file) if text.startswith(BATCHED)] == [
        f"{BATCHED}, tiny-causal",
        f"{BATCHED}, tiny-longnet",
    ]
    assert "deadlock" not in capsys.readouterr().out


@pytest.mark.usefixtures("unmeasured")
def test_what_a_target_does_not_support_is_not_drawn_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "limited.py"
    module.write_text(
        "import attention_gate\nfrom tests.verify.network.ring import attend\n"
        "dense = attention_gate.Target(attend=attend, branches='dense')\n"
        "many = attention_gate.Target(attend=attend, least_ranks=4)\n"
    )
    file = tmp_path / "none.svg"
    assert main(command(f"{module}:dense", f"{module}:many", file=file, size=2, workload="tiny-longnet")) == 0
    printed = capsys.readouterr().out
    assert f"{module}:dense: not drawn: only dense attention is supported" in printed
    assert "needs at least 4 ranks" in printed
    assert "rank 0" not in texts(file)


@pytest.mark.parametrize(
    ("file", "size", "words"),
    [
        ("/no/such/folder/out.svg", 2, "the folder of /no/such/folder/out.svg does not exist"),
        ("/", 2, "/ is a folder"),
        ("/proc/out.svg", 2, "/proc/out.svg cannot be written: "),
        ("out.svg", 17, "--timelines draws at most 16 ranks, and --world-size is 17"),
    ],
)
def test_bad_use_is_one_line_before_anything_is_measured(
    file: str, size: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compare, "measure", lambda *_: pytest.fail("measured"))
    assert main(command(BATCHED, file=Path(file), size=size)) == 2
    reported = capsys.readouterr().err
    assert words in reported
    assert reported.count("\n") == 1


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_small_case_has_the_shape_of_its_workload(name: str) -> None:
    workload, size = WORKLOADS[name], 4
    case = timelines.small(workload, size)
    assert case.length <= 16 * size
    assert (case.is_causal, case.dtype, case.dilation_rates) == (
        workload.is_causal,
        workload.dtype,
        workload.dilation_rates,
    )
    for little, length in zip(case.segment_lengths, workload.lengths(size), strict=True):
        assert little == max(1, length * 16 // workload.rows)


def test_the_readme_says_how_its_picture_is_made() -> None:
    text = (ROOT / "README.md").read_text()
    (line,) = [line for line in text.replace("\\\n", " ").splitlines() if "--timelines" in line]
    parser = argparse.ArgumentParser()
    compare.add_arguments(parser)
    options = parser.parse_args(shlex.split(line)[4:])
    assert f"]({options.timelines})" in text
    written = texts(ROOT / options.timelines)
    assert [text for text in written if ":" in text] == options.targets
    assert written.count("rank 0") == len(options.targets)
    assert f"rank {options.world_size - 1}" in written
