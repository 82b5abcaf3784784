"""The budget: right arithmetic in each dtype stays within it, and errors far above rounding do not."""

import numpy as np
import pytest
import torch

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.data import rounded
from attention_gate.verify.case.styles import DATA_STYLES
from attention_gate.verify.judge import error_budget
from attention_gate.verify.judge.comparison import assemble, shares
from attention_gate.verify.judge.oracle import answer, inputs_of
from tests.verify.cases import case_of, shards_of
from tests.verify.correct.simulated import attended
from tests.verify.correct.style import STYLES

NAMES = ("out", "query.grad", "key.grad", "value.grad")


def plain_torch(case, dtype, accumulate):
    """The formula in torch and its own autograd: what somebody who never saw the oracle would write."""
    inputs = inputs_of(case)
    tensors = [torch.from_numpy(x.copy()).to(dtype).requires_grad_() for x in (inputs.query, inputs.key, inputs.value)]
    query, key, value = (x.to(accumulate).transpose(1, 2) for x in tensors)
    key, value = (x.repeat_interleave(case.heads // case.kv_heads, dim=1) for x in (key, value))
    branches = reference.branches(case.segment_lengths, case.dilation_rates)
    M = torch.from_numpy(reference.multiplicity(case.length, case.heads, branches, case.is_causal))
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    scores = scale * (query @ key.transpose(-1, -2)) + M.to(accumulate).log()
    seen = (M > 0).any(-1, keepdim=True)
    weights = torch.where(seen, scores, 0.0).softmax(-1) * seen
    out = (weights @ value).to(dtype).transpose(1, 2)
    out.backward(torch.from_numpy(inputs.upstream.copy()).to(dtype))
    found = [out.detach(), *(x.grad for x in tensors)]
    return {name: x.double().numpy() for name, x in zip(NAMES, found, strict=True)}


ACCUMULATORS = {
    "float64": torch.float64,
    "float32": torch.float32,
    "bfloat16": torch.float32,
    "float16": torch.float32,
}


@pytest.mark.parametrize("style", DATA_STYLES)
@pytest.mark.parametrize("dtype", ACCUMULATORS)
def test_plain_torch_stays_within_the_budget(dtype, style):
    for seed in range(12):
        case = case_of(
            length=1 + seed,
            data=style,
            dtype=dtype,
            seed=seed,
            is_causal=seed % 2 == 1,
            scale=(None, 0.5, 0.0)[seed % 3],
        )
        right = answer(case)
        got = plain_torch(case, getattr(torch, dtype), ACCUMULATORS[dtype])
        for name in NAMES:
            share = shares(got[name], right.expected[name], right.budget[name], dtype)
            assert share.max(initial=0.0) <= 1.0, (name, case, share.max())


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", NAMES)
def test_the_budget_is_no_wider_than_rounding_asks_for(name, dtype):
    """Of the order of the rounding errors of some hundred operations: it is no blank cheque."""
    case = case_of(length=9, dtype=dtype)
    right = answer(case)
    size = np.abs(right.expected[name])
    unit = {"float32": 2.0**-24, "bfloat16": 2.0**-8}[dtype]
    typical = np.median(right.budget[name] / np.maximum(size, 1e-3 * size.max()))
    assert unit < typical < 6000 * unit


@pytest.mark.parametrize("name", NAMES)
def test_an_error_three_decades_above_rounding_is_beyond_it(name):
    case = case_of(length=9)
    right = answer(case)
    size = np.abs(right.expected[name]).max()
    got = right.expected[name] + 1e3 * 2.0**-53 * size
    assert shares(got, right.expected[name], right.budget[name], "float64").max() > 1.0


def test_the_answer_rounded_to_the_dtype_is_within_the_budget():
    for dtype in ACCUMULATORS:
        right = answer(case_of(length=9, dtype=dtype, data="sharp"))
        for name, expected in right.expected.items():
            share = shares(rounded(expected, dtype), expected, right.budget[name], dtype)
            assert share.max() <= (1.0 if name != "lse" or dtype in ("float32", "float64") else np.inf)


def test_a_row_that_sees_nothing_has_no_budget_for_anything_but_nothing():
    case = case_of(length=7, segment_lengths=(2,), dilation_rates=(3,))
    right = answer(case)
    blind = np.isneginf(right.expected["lse"])
    assert blind.any()
    assert right.budget["out"][blind.swapaxes(1, 2)].max() < 1e-300
    got = right.expected["out"].copy()
    got[blind.swapaxes(1, 2)] = 1e-200
    assert shares(got, right.expected["out"], right.budget["out"], "float64").max() > 1.0


def _random(queries: int, keys: int) -> np.ndarray:
    return np.random.default_rng(0).random((2, queries, keys)) < 0.4


def _causal(queries: int, keys: int) -> np.ndarray:
    seen = np.arange(keys) <= np.arange(queries)[:, None]
    return np.stack([seen, seen & (np.arange(keys) > np.arange(queries)[:, None] - 3)])


def _dilated(queries: int, keys: int) -> np.ndarray:
    same = (np.arange(queries)[:, None] - np.arange(keys)) % 3 == 0
    return np.stack([same, same & (np.arange(queries)[:, None] // 4 == np.arange(keys) // 4)])


@pytest.mark.parametrize("mask", [_random, _causal, _dilated])
@pytest.mark.parametrize(("queries", "keys"), [(7, 9), (20, 20), (1, 1), (3, 0), (0, 3), (0, 0)])
def test_the_largest_rows_are_those_that_a_query_sees(mask, queries, keys):
    seen = np.broadcast_to(mask(queries, keys), (3, 2, queries, keys))
    rows = np.random.default_rng(1).random((3, 2, keys, 5))
    found = error_budget._largest_seen(seen, rows)
    assert found.shape == (3, 2, queries, 5)
    for at in np.ndindex(3, 2, queries):
        of_query = rows[at[:2]][seen[at]]
        assert np.array_equal(found[at], of_query.max(axis=0, initial=0.0))


def test_the_answer_is_the_same_for_every_world_size_and_all_strides():
    one = answer(case_of(length=9))
    other = answer(case_of(length=9, world_size=3, buffers="packed", requires_grad="k", group=(0, 2)))
    assert one is other


def test_a_kernel_that_takes_subnormal_numbers_for_zero_stays_within_the_budget():
    """Weights and dS in float32, as a GPU computes them; a case in which a fused kernel's gradient of key was 0."""
    case = Case(
        length=8,
        head_dim=8,
        value_dim=8,
        segment_lengths=(8,),
        dilation_rates=(1,),
        dtype="bfloat16",
        data="huge",
        seed=1787,
    )
    inputs, right = inputs_of(case), answer(case)
    q, k, v, dO = (x[0, :, 0] for x in (inputs.query, inputs.key, inputs.value, inputs.upstream))
    scale = case.head_dim**-0.5
    P = flushed(np.exp(scale * (q @ k.T) - right.expected["lse"][0, 0][:, None]))
    D = (dO * right.expected["out"][0, :, 0]).sum(-1, keepdims=True)
    dS = flushed(scale * flushed(P * (dO @ v.T - D)))
    dK = rounded(dS.T @ q, case.dtype)
    share = shares(dK[None, :, None], right.expected["key.grad"], right.budget["key.grad"], case.dtype)
    assert 0.0 < share.max() <= 1.0


def flushed(numbers):
    """The numbers, those that are subnormal in float32 as zero."""
    return np.where(np.abs(numbers) < 2.0**-126, 0.0, numbers)


#: Cases in which bounds that weigh all errors by P flag right programs, found by the gate's own search.
MERGED = [
    ("sigmoid", Case(world_size=3, length=6, batch=2, heads=2, kv_heads=1, head_dim=3, scale=2.0, data="zeros")),
    ("sigmoid", Case(world_size=4, length=8, batch=2, heads=2, kv_heads=1, head_dim=3, scale=2.0, data="zeros")),
    ("sigmoid_autograd", Case(world_size=4, length=8, heads=2, kv_heads=1, head_dim=4, data="sharp", seed=5)),
    ("sigmoid_autograd", Case(world_size=4, length=12, head_dim=3, data="offset", scale=2.0, seed=7)),
    ("logaddexp_autograd", Case(world_size=4, length=26, pass_length=True, batch=2, heads=2, kv_heads=2, data="huge")),
    ("logaddexp_autograd", Case(world_size=4, length=8, heads=4, kv_heads=4, head_dim=4, data="huge", scale=-0.7)),
]


@pytest.mark.parametrize(("style", "case"), MERGED, ids=lambda value: value if isinstance(value, str) else "")
def test_stable_merges_stay_far_within_the_budget(style, case):
    """The updates of published rings cancel where one block outweighs the others: an error that P does not weigh."""
    for seed in range(20):
        made = case.replace(segment_lengths=(case.length,), seed=case.seed + seed)
        right = answer(made)
        parts = attended(made, STYLES[style])
        positions = shards_of(made)
        for name in ("out", "lse", *NAMES[1:]):
            got = assemble(made, parts, positions, name)
            share = shares(got, right.expected[name], right.budget[name], made.dtype)
            assert share.max(initial=0.0) <= 0.4, (name, made, share.max())
