"""The targets in docs/targets.md and docs/ci.md are judged as they stand, and mistakes in them are caught."""

import re
import sys
from pathlib import Path

import pytest

import attention_gate

_DOCS = Path(__file__).parents[2] / "docs"


def shown(page: str, words: str) -> str:
    """The one file on a page that contains these words."""
    [code] = [
        code for code in re.findall(r"```python\n(.*?)```", (_DOCS / page).read_text(), re.DOTALL) if words in code
    ]
    return code


def judged(folder: Path, code: str, *checks: str, world_sizes: tuple[int, ...] = (1, 2, 3)) -> attention_gate.Report:
    (folder / "shown_target.py").write_text(code)
    sys.modules.pop("shown_target", None)
    report = attention_gate.check(
        f"{folder}/shown_target.py:target", profile="quick", world_sizes=world_sizes, checks=checks, save=str(folder)
    )
    sys.modules.pop("shown_target", None)
    return report


def outcomes(report: attention_gate.Report) -> dict[str, str]:
    assert report.error is None, report.error
    return {check.name: check.outcome for check in report.checks}


_ROWS = shown("targets.md", "def backwards")


def in_layout(name: str) -> str:
    """The file of the page, which declares that layout in place of its own function, without a reason."""
    return _ROWS.replace("layout=backwards", f'layout="{name}"').replace('"layout": "the last rank starts", ', "")


_EVEN_HALVES = """
def fit(case):
    length = case.length + -case.length % (2 * case.shards)
    return case.replace(length=length, segment_lengths=(length,))

target = dataclasses.replace(target, fit=fit)
"""


@pytest.mark.parametrize("layout", ["backwards", "contiguous", "zigzag", "striped"])
def test_a_target_says_which_rows_a_rank_owns(tmp_path: Path, layout: str) -> None:
    """By its own function, as on the page, or by name with the positions of that layout."""
    code = _ROWS
    if layout != "backwards":
        code = in_layout(layout).replace(
            "def attend", f"from attention_gate.verify.target.layouts import {layout} as backwards\n\ndef attend"
        )
    if layout == "zigzag":
        code = f"import dataclasses\n{code}{_EVEN_HALVES}"
    checks = ("forward", "gradients", "schedules")
    assert set(outcomes(judged(tmp_path, code, *checks)).values()) == {"pass"}


_DECODING = shown("targets.md", 'queries="replicated"')


def test_the_target_that_decodes_conforms(tmp_path: Path) -> None:
    report = judged(tmp_path, _DECODING, "forward", "schedules", "combinations")
    assert set(outcomes(report).values()) == {"pass"}


def test_parts_that_are_merged_by_their_own_lse_alone_are_caught(tmp_path: Path) -> None:
    merged = "torch.stack(lses).logsumexp(0)"
    assert merged in _DECODING
    assert outcomes(judged(tmp_path, _DECODING.replace(merged, "lse"), "forward")) == {"forward": "fail"}


def test_a_layout_that_is_declared_wrongly_is_caught(tmp_path: Path) -> None:
    assert outcomes(judged(tmp_path, in_layout("striped"), "forward")) == {"forward": "fail"}


def test_what_a_target_does_not_support_is_listed_with_its_reason(tmp_path: Path) -> None:
    report = judged(tmp_path, _ROWS, "forward", "refusals", world_sizes=(1,))
    assert outcomes(report) == {"forward": "pass", "refusals": "unsupported"}
    assert "uneven shards (equal shards)" in report.unsupported
    assert "refusing bad arguments on every rank (not yet: next month)" in report.unsupported
    assert "contiguous shards, the layout is backwards (the last rank starts)" in report.unsupported


@pytest.mark.parametrize(
    ("dialect", "outcome"), [("torchscale", "pass"), ("longnet", "fail"), ("grouped-mean", "fail")]
)
def test_a_target_declares_its_dialect(tmp_path: Path, dialect: str, outcome: str) -> None:
    code = shown("targets.md", "reference.dilated_attention").replace(
        'Target(attend=attend, dialect="torchscale"', f'Target(attend=attend, dialect="{dialect}"'
    )
    assert outcomes(judged(tmp_path, code, "forward", world_sizes=(1,))) == {"forward": outcome}


_DAY = 'until="2999-12-31"'
_EXACT = (".bfloat16()", "")


@pytest.mark.parametrize(
    ("changes", "outcome", "verdict", "status"),
    [
        ([], "known", "pass", 0),
        ([_EXACT], "stale", "fail", 1),
        ([(_DAY, 'until="2020-01-31"')], "fail", "fail", 1),
        ([_EXACT, ('("bfloat16", "float16")', '("float32",)')], "stale", "fail", 1),
    ],
    ids=["known", "it passes all the same", "its day is over", "it is not tried any more"],
)
def test_a_known_failure_is_accepted_until_its_day_and_as_long_as_it_fails(
    tmp_path: Path, changes: list[tuple[str, str]], outcome: str, verdict: str, status: int
) -> None:
    code = shown("ci.md", "attention_gate.KnownFailure(").replace('until="2030-01-31"', _DAY)
    for old, new in changes:
        assert old in code
        code = code.replace(old, new)
    report = judged(tmp_path, code, "forward", "precision")
    assert outcomes(report) == {"forward": "pass", "precision": outcome}
    assert (report.verdict, report.exit_status) == (verdict, status)


def test_the_targets_and_scripts_that_the_pages_name_are_there() -> None:
    examples = _DOCS.parent / "examples"
    text = "\n".join(page.read_text() for page in _DOCS.glob("*.md"))
    targets = re.findall(r"(\w+_target\.py):(\w+)", text)
    assert len(targets) > 20
    for file, name in targets:
        if file != "my_target.py":
            assert re.search(rf"^{name} = attention_gate\.Target\(", (examples / file).read_text(), re.MULTILINE), (
                f"{file}:{name}"
            )
    scripts = set(re.findall(r"examples/((?:defects|claims)/\w+\.py)", text))
    assert scripts == {str(path.relative_to(examples)) for path in examples.glob("*/*.py")}
