"""The cases that rounding is measured on are what the measurement needs them to be."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.precision_cases import (
    HALF_TYPES,
    RANKS,
    measuring_cases,
    on_fewer_ranks,
    why_not_measured,
)
from attention_gate.verify.case.styles import ONE_SIDED
from attention_gate.verify.checks.precision import PRECISION
from attention_gate.verify.judge.oracle import answer, inputs_of
from attention_gate.verify.judge.rms_error import ELEMENTS, RMS_LIMITS, regime, rms_ratio
from attention_gate.verify.target.target import Target
from tests.calibration.sweep import InOneProcess
from tests.verify.checks.precision_mistakes import MISTAKES
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
    assert strategy(1) is None
    assert strategy(1, 2) is not None
    assert strategy(1, 2, 3, 4, dtypes=("float64", "float32")) is None
    assert strategy(1, 2, 3, 4, heads_shared=2) is not None
    assert strategy(1, 2, 3, 4, heads_shared=4) is None
    assert strategy(1, 2, 3, 4, least_ranks=9) is None


def test_what_is_not_measured_is_said() -> None:
    for declared, words in (
        ({"dtypes": ("float64",)}, "the target takes no half type"),
        ({"heads_shared": 4}, "of 8 ranks it merges fewer than 3 blocks"),
        ({}, ""),
    ):
        assert why_not_measured(Target(attend=attend, **declared), (1, 2)) == words
    assert why_not_measured(Target(attend=attend), (1,)) == "a world of one rank merges no blocks"


@pytest.mark.parametrize("name", ["running_output", "travelling_gradients", "query_gradient", "flash_lse"])
def test_a_target_that_takes_causal_calls_only_is_measured_too(name: str) -> None:
    found = strategy(1, 2, 3, 4, masks=(True,), branches="dense" if name == "running_output" else "any")
    assert found is not None
    case = Case(
        world_size=8,
        length=512,
        batch=2,
        head_dim=16,
        value_dim=16,
        segment_lengths=(512,) * 2,
        dilation_rates=(1,) * 2,
        is_causal=True,
        dtype="bfloat16",
        data=ONE_SIDED,
    )
    for style, wrong in ((MISTAKES[name], True), (STYLES["flash"], False), (STYLES["flash_branches"], False)):
        session = InOneProcess(Target(attend=attend, masks=(True,), lse=True))
        session.style = style
        assert (PRECISION.examine(session, case, {}).finding is not None) == wrong


def test_results_of_fewer_blocks_than_ranks_are_let_through() -> None:
    """Pairs of ranks that have shared the heads out merge half as many blocks, each of which weighs more."""
    case = Case(
        world_size=8,
        length=512,
        batch=2,
        head_dim=16,
        value_dim=16,
        segment_lengths=(512,),
        dilation_rates=(1,),
        dtype="bfloat16",
        data=ONE_SIDED,
    )
    for declared in (1, 2):
        session = InOneProcess(Target(attend=attend, heads_shared=declared))
        session.style = STYLES["flash_hybrid"]
        assert PRECISION.examine(session, case, {}).finding is None


@pytest.mark.parametrize("mistake", ["running_output", "travelling_gradients", "query_gradient"])
def test_shared_heads_are_suggested_only_where_they_may_be_the_cause(mistake: str) -> None:
    """A running sum of eight blocks is further off than merging three of them explains."""
    case = Case(
        world_size=8,
        length=512,
        batch=2,
        head_dim=16,
        value_dim=16,
        segment_lengths=(512,),
        dilation_rates=(1,),
        dtype="bfloat16",
        data=ONE_SIDED,
    )
    session = InOneProcess(Target(attend=attend))
    session.style = MISTAKES[mistake]
    finding = PRECISION.examine(session, case, {}).finding
    assert finding is not None
    assert finding.tensor is not None
    ratio = float(finding.headline.split(" is ")[1].split(" times")[0])
    suggested = any("Target(heads_shared=" in line for line in finding.details)
    assert suggested == (ratio <= RMS_LIMITS[3, "one"][finding.tensor])


@settings(max_examples=40, deadline=None, database=None)
@given(st.data())
def test_they_have_equal_shards_and_enough_elements(data: st.DataObject) -> None:
    sizes = data.draw(st.sampled_from([(1, 2), (1, 2, 3, 4), (8,)]))
    branches = data.draw(st.sampled_from(["any", "dense"]))
    found = strategy(*sizes, branches=branches)
    assert found is not None
    case = data.draw(found)
    assert case.world_size == case.shards == RANKS
    assert case.length % case.shards == 0
    assert case.batch * case.length * case.kv_heads * min(case.head_dim, case.value_dim) >= ELEMENTS
    assert case.dtype in HALF_TYPES
    assert set(case.segment_lengths) == {case.length}
    assert branches == "any" or len(case.segment_lengths) == 1
    assert regime(case.shards, len(case.segment_lengths)) in RMS_LIMITS


def test_fewer_gpus_make_fewer_blocks() -> None:
    case = Case(world_size=8, length=520, segment_lengths=(520, 520), dilation_rates=(1, 1), data=ONE_SIDED)
    fewer = on_fewer_ranks(case, 3)
    assert (fewer.world_size, fewer.length, fewer.segment_lengths) == (3, 519, (519, 519))
    assert on_fewer_ranks(case, 8) == case
    assert on_fewer_ranks(case.replace(data="normal"), 3).world_size == 8


@pytest.mark.parametrize("dtype", HALF_TYPES)
def test_one_rounding_is_the_unit(dtype: str) -> None:
    right = np.random.default_rng(0).normal(size=20_000) * 2.0 ** np.random.default_rng(1).integers(-3, 4, 20_000)
    once = torch.from_numpy(right).to(getattr(torch, dtype)).double().numpy()
    assert rms_ratio(once, right, dtype) == pytest.approx(1.0, abs=0.03)
    assert rms_ratio(once, right, dtype, least=20_001) == 0.0
