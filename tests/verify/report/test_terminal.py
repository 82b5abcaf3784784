"""Terminals get tables and colours, everything else plain lines; what failed and how to see it again comes last."""

from __future__ import annotations

import io
import re
import sys
import time

import pytest

pytest.importorskip("rich", reason="rich, which draws on terminals, is not installed")

from rich.console import Console

from attention_gate.verify.checks import CHECKS
from attention_gate.verify.checks.results import CheckResult
from attention_gate.verify.report import terminal
from attention_gate.verify.report.coloured import show
from attention_gate.verify.report.live_table import LiveTable
from attention_gate.verify.report.progress import PlainProgress, progress_of
from attention_gate.verify.report.text import text
from tests.verify.reports import check_of, failure_of, report_of

REPORT = report_of(
    check_of("forward", "fail", failure=failure_of("the output is wrong", details=("a detail " * 20,))),
    check_of("gradients", "blocked"),
    check_of("wire", remark="at most 0.99 times the bytes of a dense ring"),
)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("environment", "rich"),
    [
        ({"TERM": "xterm"}, True),
        ({"TERM": "xterm", "CI": "true"}, False),
        ({"TERM": "xterm", "CI": "false"}, True),
        ({"TERM": "dumb"}, False),
        ({}, False),
    ],
)
def test_only_terminals_that_can_show_it_get_tables(
    environment: dict[str, str], rich: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TERM", "CI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminal.is_rich(_Terminal()) == rich
    assert not terminal.is_rich(io.StringIO())
    monkeypatch.setattr(sys, "stderr", _Terminal())
    assert isinstance(progress_of(CHECKS, "quick"), LiveTable if rich else PlainProgress)


def console(width: int, height: int = 40, **options: bool) -> tuple[Console, io.StringIO]:
    stream = io.StringIO()
    return Console(file=stream, force_terminal=True, width=width, height=height, highlight=False, **options), stream


@pytest.mark.parametrize("width", [80, 160])
def test_the_failing_case_and_its_replay_line_are_last(width: int) -> None:
    out, stream = console(width, no_color=True)
    show(REPORT, console=out)
    lines = [line.rstrip() for line in stream.getvalue().splitlines()]
    assert "  replay: python -m attention_gate replay failures/attend-forward.json" in lines[-2]
    assert lines[-1].startswith("  or in Python: import attention_gate; attention_gate.replay(")
    verdict = next(k for k, line in enumerate(lines) if "DOES NOT CONFORM" in line)
    assert any("minimal case" in line for line in lines[verdict:])
    shown = [re.sub(r"\x1b\[[\d;]*m", "", line) for line in lines]
    assert [line for line in shown if len(line) > width and not line.startswith(("  replay", "  or in"))] == []


def test_it_says_what_the_plain_text_says() -> None:
    out, stream = console(2000, no_color=True)
    show(REPORT, console=out)
    shown = " ".join(stream.getvalue().replace("\x1b[", " ").split())
    for word in set(text(REPORT).split()) - {"examples"}:
        assert word in shown, word


def test_colours_are_left_out_where_nobody_wants_them(monkeypatch: pytest.MonkeyPatch) -> None:
    coloured, plain = console(100), None
    show(REPORT, console=coloured[0])
    assert "\x1b[1;31m" in coloured[1].getvalue()
    monkeypatch.setenv("NO_COLOR", "1")
    plain = console(100)
    show(REPORT, console=plain[0])
    assert "31m" not in plain[1].getvalue()


def test_all_checks_are_a_table_that_fills() -> None:
    out, stream = console(100)
    with LiveTable(CHECKS, "quick", out) as progress:
        progress.started(CHECKS[0], 48)
        time.sleep(0.15)
        progress.advanced(12)
        assert "12 of 48" in stream.getvalue()
        assert f"0 of {len(CHECKS)} checks, 12 examples" in stream.getvalue()
        assert "s left" in stream.getvalue()
        progress.finished(CheckResult("forward", "", "pass", 48, 2.0))
        progress.started(CHECKS[1], 12)
        latest = stream.getvalue().rpartition("check ")[2]
        assert f"1 of {len(CHECKS)} checks, 48 examples" in latest
        for check in CHECKS:
            assert check.name in latest


def test_a_low_terminal_shows_the_part_of_the_table_that_fills() -> None:
    out, stream = console(100, height=12)
    with LiveTable(CHECKS, "quick", out) as progress:
        for check in CHECKS[:15]:
            progress.finished(CheckResult(check.name, "", "pass", 4, 0.1))
        progress.started(CHECKS[15], 9)
        latest = stream.getvalue().rpartition("per second")[2]
    assert CHECKS[15].name in latest
    assert latest.count("\n") <= 12
    assert "forward " not in latest


def test_plain_lines_are_one_for_each_check() -> None:
    stream = io.StringIO()
    with PlainProgress(stream) as progress:
        progress.started(CHECKS[0], 48)
        progress.advanced(3)
        progress.finished(CheckResult("forward", "", "pass", 48, 2.0))
    assert stream.getvalue() == "forward: pass (48 examples, 24/s)\n"
