"""The report as a page: whole without anything else, readable in a browser by everybody, and as the text says."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="matplotlib, the extra attention-gate[report], is not installed")

import attention_gate
from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.results import Example, Failure
from attention_gate.verify.judge.measurements import Tally
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import Schedule
from attention_gate.verify.report import plots
from attention_gate.verify.report.page import html
from attention_gate.verify.run.judgement import Report
from tests.verify.report.browser import opened
from tests.verify.reports import check_of, report_of

CASE = Case(world_size=3, length=12, segment_lengths=(12,), dilation_rates=(1,), is_causal=True)
LARGEST_BYTES = 2 << 20


def attend(query, key, value, **options):  # type: ignore[no-untyped-def]
    """Only declared, never called."""


@pytest.fixture(scope="module")
def report(session_of: Callable[..., Session]) -> Report:
    """One check that passes with figures, one whose value is wrong, one that hangs, one that is blocked."""
    tally = Tally()
    for ranks in (1, 2, 3):
        case = CASE.replace(world_size=ranks, requires_grad="qkv")
        tally.add(case, 0.1 * ranks, {"out": 0.1 * ranks, "key.grad": 0.05})
    passed = check_of("forward", measured=tally.measured())
    wrong = session_of("tests.verify.targets:causal_ignored")
    found = wrong.judged(CASE, names=("out",)).finding
    assert found is not None
    failed = Failure(
        found,
        Example("gradients", CASE),
        (2, 2),
        replay="failures/it's.json",
        positions=wrong.positions(CASE),
    )
    hanging = session_of("tests.verify.network.mistakes:unbatched")
    run = simulate(hanging, CASE, schedule=Schedule("stream"), judged=False)
    assert run.finding is not None
    hung = Failure(run.finding, Example("schedules", CASE), (2, 2), trace=run.trace, positions=wrong.positions(CASE))
    return report_of(
        passed,
        check_of("gradients", "fail", failure=failed, measured=tally.measured()),
        check_of("schedules", "hang", failure=hung),
        check_of("purity", "blocked"),
        target="<mine> & yours:attend",
        unsupported=("uneven shards",),
        notes=("a note",),
        declared=attention_gate.Target(attend=attend),
    )


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return html(report)


class _Elements(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_it_needs_no_other_file_and_no_script(page: str) -> None:
    assert len(page.encode()) < LARGEST_BYTES
    elements = _Elements(page).found
    assert not [tag for tag, _ in elements if tag in ("script", "img", "iframe", "object")]
    outside = [
        (tag, value)
        for tag, attributes in elements
        for name, value in attributes.items()
        if name in ("src", "href", "xlink:href") and value and not value.startswith(("#", "data:"))
    ]
    assert outside == []
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []


def test_ids_are_there_once_and_links_lead_to_them(page: str) -> None:
    elements = _Elements(page).found
    ids = [attributes["id"] for _, attributes in elements if "id" in attributes]
    assert sorted(ids) == sorted(set(ids))
    inside = [value[1:] for _, attributes in elements if (value := attributes.get("href")) and value.startswith("#")]
    assert set(inside) <= set(ids)


def test_it_says_what_the_text_says(page: str, report: Report) -> None:
    assert "&lt;mine&gt; &amp; yours:attend" in page
    assert "<mine>" not in page
    assert "DOES NOT CONFORM" in page
    assert "ran 3 of 4 checks" in page
    assert "builds on" in page or "it is blocked" in page
    assert "declared as unsupported: uneven shards" in page
    assert "a note" in page
    assert re.search(r"of \d+ known mistakes", page)


def test_a_wrong_element_is_marked_and_stands_beside_the_right_one(page: str, report: Report) -> None:
    failure = report.checks[1].failure
    assert failure is not None
    element = failure.finding.element
    assert element is not None
    assert f"<dt>expected</dt><dd><code>{element.expected:.9g}</code></dd>" in page
    assert f"<dt>returned</dt><dd><code>{element.got:.9g}</code></dd>" in page
    assert f"query {element.position} is wrong" in page
    assert "sees key 0 (rank 0)" in page
    assert "replay &#39;failures/it&#39;" in page


def test_a_deadlock_is_drawn_as_its_cycle(page: str) -> None:
    for rank in range(3):
        assert f"rank {rank} waits for rank {(rank + 1) % 3}" in page
    assert "the deadlock: who waits for whom" in page


@pytest.mark.parametrize(("dark", "width"), [(False, 1280), (True, 1280), (False, 500)])
def test_everybody_can_read_it_in_a_browser(page: str, tmp_path: Path, dark: bool, width: int) -> None:
    found = opened(page, tmp_path, dark=dark, width=width)
    assert found["violations"] == []
    assert found["passes"] > 20
    assert found["dark"] == dark
    assert found["ground"] == ("rgb(20, 24, 29)" if dark else "rgb(255, 255, 255)")
    assert found["overflow"] <= 0, "the page itself scrolls sideways"
    assert found["loaded"] == []
    assert found["bars"] > 20


def test_a_page_that_is_hard_to_read_is_noticed(page: str, tmp_path: Path) -> None:
    """The test above can fail."""
    spoilt = page.replace('lang="en"', "").replace("--faint: #57606a", "--faint: #dddddd")
    names = {name for name, *_ in opened(spoilt, tmp_path)["violations"]}
    assert names >= {"html-has-lang", "color-contrast"}


def test_without_matplotlib_it_says_how_to_get_it(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(ValueError, match=r"pip install 'attention-gate\[report\]'"):
        html(report)


def test_a_run_without_measurements_has_a_page_too() -> None:
    page = html(replace(report_of(check_of("forward", "not run")), error="interrupted"))
    assert "The run did not finish: interrupted" in page
    assert 'id="budgets"' not in page


def test_the_floor_is_a_line_and_tiny_fractions_have_a_logarithmic_scale() -> None:
    tiny = plots.fractions({"tiny": {"mine": 0.01, "yours": 0.02}})
    large = plots.fractions({"dense-8k": {"mine": 0.8}})
    for picture in (tiny, large):
        assert "the floor" in picture
        assert "fraction of the floor" in picture
        assert "prefers-color-scheme: dark" in picture
    assert ">0.1<" in tiny
    assert ">0.1<" not in large
