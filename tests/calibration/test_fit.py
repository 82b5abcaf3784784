"""The gate's constants follow from the committed sweep, by rules that are stated here."""

from __future__ import annotations

import json
from pathlib import Path

from attention_gate.verify.judge.error_budget import CONSTANT
from attention_gate.verify.judge.rms_error import RMS_LIMITS
from attention_gate.verify.target.choices import DTYPES
from tests.calibration.fit import constant, limits
from tests.calibration.sweep import sweep
from tests.verify.correct.style import STYLES

DATA = json.loads(Path(__file__).with_name("sweep.json").read_text())


def test_the_data_tell_what_they_were_judged_by() -> None:
    """A sweep that was judged by the limits in force lists what it flagged, which must be nothing."""
    assert DATA["styles"] == len(STYLES)
    assert DATA["seeds"] == 20
    assert list(DATA["examples"]) == list(DTYPES)
    assert ("judged by" in DATA) != ("flagged" in DATA)
    assert all(flagged == [] for flagged in DATA.get("flagged", {}).values())


def test_the_page_has_the_figures_of_the_data() -> None:
    page = (Path(__file__).parents[2] / "docs" / "strength.md").read_text()
    assert f"{DATA['styles']} styles of correct attention" in page
    assert f"0 of {sum(DATA['examples'].values()):,} examples" in page
    for dtype, count in DATA["examples"].items():
        largest = max(entry["units"] for entry in DATA["largest error in units of the analysis"][dtype].values())
        assert f"| {dtype} | {count:,} | 0 | {100 * largest / CONSTANT:.0f} % |" in page


def test_the_constants_follow_from_the_data() -> None:
    assert constant(DATA) == CONSTANT
    assert limits(DATA) == RMS_LIMITS


def test_the_rules() -> None:
    data = json.loads(json.dumps(DATA))
    data["largest error in units of the analysis"]["bfloat16"]["out"]["units"] = 1.01
    assert constant(data) == 3.5
    rows = data["root-mean-square error in units of one rounding, by ranks and branches"]
    rows["4 ranks, one"]["out"]["largest"] = 2.0
    assert limits(data)[4, "one"]["out"] == 2.5
    assert limits(data)[4, "several"]["out"] == 2.5


def test_a_small_sweep_of_today_stays_within_what_was_seen() -> None:
    *_, total = sweep(40, 2, jobs=2)
    for dtype, seen in total.items():
        assert seen.examples == 40
        assert seen.flagged == [], dtype
        for units, style, case in seen.largest.values():
            assert units < CONSTANT / 2, (style, case)
