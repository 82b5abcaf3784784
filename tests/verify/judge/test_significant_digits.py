"""Results that passed through a narrower dtype are reported by their digits; coarse ones that are right are not."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.precision import PRECISION
from attention_gate.verify.checks.profiles import examples
from attention_gate.verify.judge.significant_digits import BITS, Short, shortened
from attention_gate.verify.judge.tensor_names import VALUES
from attention_gate.verify.run.search import Searched, search
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.finding import Finding
from tests.calibration.sweep import InOneProcess
from tests.verify.correct.style import STYLES

WIDER = [(dtype, narrower) for dtype in BITS for narrower in BITS if BITS[narrower] < BITS[dtype]]


def through(values: np.ndarray, *dtypes: str) -> np.ndarray:
    tensor = torch.from_numpy(values)
    for dtype in dtypes:
        tensor = tensor.to(getattr(torch, dtype))
    return tensor.double().numpy()


def found(got: np.ndarray, right: np.ndarray, dtype: str, budget: float = 0.0) -> Short | None:
    return shortened(got, right, np.full_like(right, budget), dtype)


@pytest.fixture
def right() -> np.ndarray:
    return np.random.default_rng(0).normal(size=400)


@pytest.mark.parametrize(("dtype", "narrower"), WIDER)
def test_the_narrower_dtype_is_named(right: np.ndarray, dtype: str, narrower: str) -> None:
    short = found(through(right, narrower, dtype), right, dtype)
    assert short is not None
    assert short.narrower == narrower
    assert short.count == short.of >= 300


@pytest.mark.parametrize("dtype", BITS)
def test_one_rounding_and_noise_are_let_through(right: np.ndarray, dtype: str) -> None:
    assert found(through(right, dtype), right, dtype) is None
    noise = np.random.default_rng(1).normal(size=right.size) * 2.0 ** (2 - BITS[dtype])
    assert found(through(right * (1 + noise), dtype), right, dtype) is None


def test_few_numbers_tell_nothing_and_half_of_many_do(right: np.ndarray) -> None:
    rounded = through(right, "bfloat16", "float16")
    assert found(rounded[:24], right[:24], "float16") is None
    assert found(rounded[:48], right[:48], "float16") is not None
    many = np.tile(right, 4) * np.repeat([1.0, 1.1, 1.3, 1.7], right.size)
    half = np.where(np.arange(many.size) % 2, through(many, "float16"), through(many, "bfloat16", "float16"))
    assert found(half, many, "float16") is not None


def test_what_is_coarse_by_itself_is_let_through(right: np.ndarray) -> None:
    coarse = through(right, "bfloat16")
    assert found(coarse, coarse, "float16") is None
    once = np.full_like(right, right[0])
    assert found(through(once, "bfloat16"), once, "float16") is None
    tiny = np.arange(257.0, 512.0, 2.0) * 2.0**-24  # below float16's normal numbers; off by the smallest of all
    assert found(tiny + 2.0**-24, tiny, "float16") is None
    assert found(np.zeros_like(right), right * 1e-17, "float32") is None


def test_what_need_not_be_right_in_its_first_bits_does_not_count(right: np.ndarray) -> None:
    rounded = through(right, "bfloat16", "float16")
    assert found(rounded, right, "float16", budget=0.01) is not None
    assert found(rounded, right, "float16", budget=2.0) is None


def test_what_is_not_finite_does_not_count(right: np.ndarray) -> None:
    rounded = through(right, "bfloat16", "float16")
    rounded[0], right[1], right[2] = np.nan, np.nan, np.inf
    short = found(rounded, right, "float16")
    assert short is not None
    assert short.count == short.of
    assert found(np.full_like(rounded, np.inf), right, "float16") is None


class Rounding(InOneProcess):
    """A correct implementation, but for one of its results, which is rounded through bfloat16."""

    rounds = ""

    def attend(self, case: Case, **options: object) -> tuple[list, Finding | None]:
        homes, finding = super().attend(case, **options)
        for home in homes:
            if self.rounds in home.arrays:
                home.arrays[self.rounds] = through(home.arrays[self.rounds], "bfloat16")
        return homes, finding


def searched(rounds: str, dtype: str, profile: str = "standard") -> Searched:
    """Of one or two ranks, where no root-mean-square is taken."""
    session = Rounding(Target(attend=searched, dtypes=("float64", dtype), lse=True), (1, 2))
    session.style, session.rounds = STYLES["flash"], rounds
    planned = examples(profile, PRECISION.weight)
    return search(PRECISION, session, examples=planned, seed=0, shrink_seconds=0.0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("name", VALUES)
def test_a_rounded_result_is_caught_where_there_are_few_ranks(name: str, dtype: str) -> None:
    finding = searched(name, dtype).finding
    assert finding is not None
    assert finding.tensor == name
    if dtype == "float16" and name != "lse":  # which error bounds alone hardly tell
        assert "has only the digits of bfloat16, but its dtype is float16" in finding.headline
        assert "fit into 8 significant bits" in finding.details[0]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_correct_one_is_not(dtype: str) -> None:
    assert searched("", dtype, "quick").finding is None
