"""Mistakes of precision are caught by the precision check in its standard profile, whatever the seed."""

from __future__ import annotations

import os

import numpy as np
import pytest

import attention_gate
from attention_gate.verify.case.precision_cases import HALF_TYPES
from attention_gate.verify.checks.precision import PRECISION
from attention_gate.verify.checks.profiles import examples
from attention_gate.verify.run.search import Searched, search
from attention_gate.verify.target.target import Target
from tests.calibration.sweep import InOneProcess
from tests.verify.checks.precision_mistakes import MISTAKES
from tests.verify.correct.style import STYLES, Style

#: With THOROUGH=1 in the environment more are tried.
SEEDS = range(5 if "THOROUGH" in os.environ else 2)


#: The mistakes that must never escape.
LISTED = ("running_output", "lse", "travelling_gradients", "scores")


def searched(style: Style, seed: int, dtypes: tuple[str, ...] = HALF_TYPES, *, profile: str = "standard") -> Searched:
    """What the precision check finds, all ranks being in this process; the lse, which would tell much, is not shown."""
    session = InOneProcess(Target(attend=searched, dtypes=("float64", *dtypes), lse=False))
    session.style = style
    planned = examples(profile, PRECISION.weight)
    return search(PRECISION, session, examples=planned, seed=seed, shrink_seconds=0.01)


@pytest.mark.parametrize("mistake", LISTED)
def test_caught_at_every_seed(mistake: str) -> None:
    missed = [seed for seed in SEEDS if searched(MISTAKES[mistake], seed).finding is None]
    assert missed == []


@pytest.mark.parametrize("dtype", HALF_TYPES)
@pytest.mark.parametrize("mistake", MISTAKES)
def test_caught_in_either_half_type(mistake: str, dtype: str) -> None:
    assert searched(MISTAKES[mistake], 0, (dtype,)).finding is not None


@pytest.mark.parametrize("name", ["plain", "flash", "flash_heads", "flash_grouped"])
def test_correct_styles_are_not(name: str) -> None:
    found = searched(STYLES[name], 0, profile="quick")
    assert found.finding is None, found.finding
    assert found.examples == examples("quick", PRECISION.weight)


def test_scores_in_float16_overflow() -> None:
    session = InOneProcess(Target(attend=searched, dtypes=("float64", "float16"), lse=False))
    session.style = MISTAKES["scores"]
    case = attention_gate.Case(
        length=24, head_dim=5, value_dim=5, segment_lengths=(24,), dilation_rates=(1,), dtype="float16", data="huge"
    )
    attended, _ = session.attend(case)
    assert np.isnan(attended[0].arrays["out"]).any()
    finding = PRECISION.examine(session, case, {}).finding
    assert finding is not None


def test_over_real_ranks_and_in_words() -> None:
    report = attention_gate.check(
        "tests.verify.checks.precision_mistakes:travelling_gradients", profile="quick", checks=("precision",)
    )
    (check,) = report.checks
    assert check.failure is not None
    assert "times that of one rounding to bfloat16" in check.failure.finding.headline
    assert "as it travels from rank to rank" in check.failure.finding.details[1]
    assert check.failure.example.case.data == "one-sided"
