"""The shape of the error against the number of blocks, at small sizes."""

from __future__ import annotations

import numpy as np
import pytest

from tests.calibration.curve import ROUNDINGS, curve

BLOCKS = (1, 2, 4, 8, 16)
PLAIN, WEIGHTS, FUSED, MISTAKE = ROUNDINGS


@pytest.fixture(scope="module", params=["bfloat16", "float16"])
def dtype(request: pytest.FixtureRequest) -> str:
    return request.param


def small(dtype: str, data: str) -> dict[str, list[float]]:
    return curve(dtype, data, blocks=BLOCKS, keys=256, queries=48, dim=24, seeds=3)


def test_normal_data_tell_a_rounded_running_output_by_its_growth(dtype: str) -> None:
    figures = small(dtype, "normal")
    assert np.allclose(figures[PLAIN], 1.0, atol=0.05)
    assert max(figures[WEIGHTS]) < 1.55
    assert max(figures[FUSED]) < 1.95
    assert np.all(np.diff(figures[MISTAKE]) > 0.2)
    assert figures[MISTAKE][-1] > 2.5


def test_one_sided_data_tell_it_from_four_blocks_on(dtype: str) -> None:
    figures = small(dtype, "one-sided")
    assert np.allclose(figures[PLAIN], 1.0, atol=0.05)
    assert np.allclose(figures[WEIGHTS], 1.0, atol=0.07)
    assert np.all(np.array(figures[FUSED][2:]) < 1.2)
    assert np.all(np.array(figures[MISTAKE][2:]) > 1.3)
