"""The cases that rounding is measured on are what the measurement needs them to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.precision_cases import HALF_TYPES, measuring_cases
from attention_gate.verify.case.styles import ONE_SIDED
from attention_gate.verify.checks.precision import PRECISION
from attention_gate.verify.judge.oracle import answer, inputs_of
from attention_gate.verify.judge.rms_error import ELEMENTS, RMS_LIMITS, regime, rms_ratio
from attention_gate.verify.target.target import Target
from tests.calibration.sweep import InOneProcess
from tests.verify.correct.attend import attend
from tests.verify.correct.style import STYLES


def strategy(*world_sizes: int, **declared: object) -> st.SearchStrategy[Case] | None:
    return measuring_cases(Target(attend=attend, **declared), world_sizes)


def agreement(terms: np.ndarray, axis: int) -> float:
    """How much of the size of the terms is left in their sum: 1 if all agree in sign."""
    return float(np.abs(terms.sum(axis)).sum() / np.abs(terms).sum())


def test_terms_of_every_sum_agree_in_sign() -> None:
    case = Case(
        length=96, heads=2, kv_heads=2, head_dim=8, value_dim=8, segment_lengths=(96,), data=ONE_SIDED, dtype="bfloat16"
    )
    inputs, right = inputs_of(case), answer(case)
    q, k, v, do, out = (
        x.swapaxes(1, 2) for x in (inputs.query, inputs.key, inputs.value, inputs.upstream, right.expected["out"])
    )
    P, _ = reference.weights(inputs.query, inputs.key, np.ones((96, 96), dtype=bool))
    dS = P * (do @ v.swapaxes(2, 3) - (do * out).sum(-1, keepdims=True))
    assert agreement(P[..., None] * v[:, :, None], 3) > 0.99
    assert agreement(P[..., None] * do[:, :, :, None], 2) > 0.99
    assert agreement(dS[..., None] * q[:, :, :, None], 2) > 0.95
    assert agreement(dS[..., None] * k[:, :, None], 3) > 0.75


def test_there_are_none_where_they_would_tell_nothing() -> None:
    assert strategy(1, 2) is None
    assert strategy(1, 2, 3, 4, masks=(True,)) is None
    assert strategy(1, 2, 3, 4, dtypes=("float64", "float32")) is None
    assert strategy(1, 2, 3, 4, heads_shared=2) is None
    assert strategy(1, 2, 3, 4, 6, heads_shared=2) is not None


def test_results_of_fewer_blocks_than_ranks_are_flagged_unless_that_is_declared() -> None:
    case = Case(
        world_size=4,
        length=96,
        batch=4,
        head_dim=8,
        value_dim=8,
        segment_lengths=(96,),
        dilation_rates=(1,),
        dtype="bfloat16",
        data=ONE_SIDED,
    )
    for declared, found in ((1, True), (2, False)):
        session = InOneProcess(Target(attend=attend, heads_shared=declared))
        session.style = STYLES["flash_hybrid"]
        verdict = PRECISION.examine(session, case, {})
        assert (verdict.finding is not None) == found
        assert found == ("Target(heads_shared=" in "".join(verdict.finding.details if verdict.finding else ()))


@settings(max_examples=40, deadline=None, database=None)
@given(st.data())
def test_they_have_equal_shards_and_enough_elements(data: st.DataObject) -> None:
    sizes = data.draw(st.sampled_from([(1, 2, 3), (1, 2, 3, 4), (8,)]))
    branches = data.draw(st.sampled_from(["any", "dense"]))
    found = strategy(*sizes, branches=branches)
    assert found is not None
    case = data.draw(found)
    assert case.world_size == case.shards == max(sizes)
    assert case.length % case.shards == 0
    assert case.batch * case.length * case.kv_heads * min(case.head_dim, case.value_dim) >= ELEMENTS
    assert case.dtype in HALF_TYPES
    assert set(case.segment_lengths) == {case.length}
    assert branches == "any" or len(case.segment_lengths) == 1
    assert regime(case.shards, len(case.segment_lengths)) in RMS_LIMITS


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_one_rounding_is_the_unit(dtype: str) -> None:
    right = np.random.default_rng(0).normal(size=20_000) * 2.0 ** np.random.default_rng(1).integers(-3, 4, 20_000)
    once = torch.from_numpy(right).to(getattr(torch, dtype)).double().numpy()
    assert rms_ratio(once, right, dtype) == pytest.approx(1.0, abs=0.03)
    assert rms_ratio(once, right, dtype, least=20_001) == 0.0
