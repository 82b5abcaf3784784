"""Where arithmetic slips: rows that see nothing, huge logits, NaN and inf, empty dimensions. Warnings are errors."""

import numpy as np
import pytest
from hypothesis import given

from attention_gate import reference
from tests.reference.cases import NAMED, Case, assert_close, cases, reproducible


def random(*shapes, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(size=shape) for shape in shapes]


@pytest.fixture(autouse=True)
def _numpy_raises():
    with np.errstate(all="raise"):
        yield


@reproducible
@given(cases())
def test_a_query_that_sees_nothing_gives_and_takes_nothing(case):
    query, key, value, grad_out = case.arrays()
    for dialect in reference.DIALECTS:
        M = reference.multiplicity(case.length, case.heads, case.branches, case.is_causal, dialect)
        sees = M.any(axis=2).T
        options = {**case.schedule, "scale": case.scale, "dialect": dialect}
        out, lse = reference.dilated_attention(query, key, value, **options)
        gradients = reference.dilated_attention_gradients(query, key, value, grad_out, **options)
        assert (out[:, ~sees] == 0).all()
        assert (gradients.query[:, ~sees] == 0).all()
        assert (lse.swapaxes(1, 2)[:, ~sees] == -np.inf).all()
        assert np.isfinite(lse.swapaxes(1, 2)[:, sees]).all()
        assert all(np.isfinite(array).all() for array in (out, *gradients))
        seen = M.any(axis=1).reshape(case.kv_heads, case.group, -1).any(axis=1).T
        assert (gradients.key[:, ~seen] == 0).all()
        assert (gradients.value[:, ~seen] == 0).all()


def test_sees_nothing_is_distinguished_from_lse_zero():
    """With q = 0 and one visible key the lse is exactly 0, and out is that key's value."""
    key, value = random((1, 2, 1, 3), (1, 2, 1, 4))
    query = np.zeros((1, 2, 1, 3))
    out, lse = reference.attention(query, key, value, [[0, 1], [0, 0]])
    np.testing.assert_array_equal(lse, [[[0.0, -np.inf]]])
    np.testing.assert_array_equal(out, [[value[0, 1], np.zeros((1, 4))]])


@pytest.mark.parametrize("logit", [1e4, 3e4, -1e4, 1e300, -1e300])
def test_huge_logits_keep_their_softmax(logit):
    """Logits L, L and L/2 seen once, twice and once: weights 1/3, 2/3, 0 or, for negative L, 0, 0, 1. 0 is unseen."""
    query, key = np.full((1, 1, 1, 1), logit), np.array([1.0, 1.0, 0.5, 0.0]).reshape(1, 4, 1, 1)
    P, lse = reference.weights(query, key, [[[1, 2, 1, 0]]], scale=1.0)
    expected, top = ([1 / 3, 2 / 3, 0, 0], logit + np.log(3)) if logit > 0 else ([0, 0, 1, 0], logit / 2)
    np.testing.assert_allclose(P[0, 0, 0], expected, rtol=1e-15, atol=0)
    np.testing.assert_allclose(lse, [[[top]]], rtol=1e-15)


def test_huge_logits_of_unseen_keys_do_not_pollute():
    """The unseen key's logit of 1e6 must neither be the maximum subtracted nor leave a trace in a gradient."""
    query, key, value, grad_out = random((1, 4, 2, 3), (1, 4, 1, 3), (1, 4, 1, 2), (1, 4, 2, 2))
    M = np.tri(4, dtype=np.int64)
    M[:, 2] = 0
    polluted = key.copy()
    polluted[0, 2] = 1e6
    assert (query @ np.full(3, 1e6)).max() > 1e5
    for ours, pure in zip(
        (
            *reference.attention(query, polluted, value, M),
            *reference.attention_gradients(query, polluted, value, M, grad_out),
        ),
        (*reference.attention(query, key, value, M), *reference.attention_gradients(query, key, value, M, grad_out)),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, pure)


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("argument", [0, 1, 2, 3], ids=["query", "key", "value", "grad_out"])
@pytest.mark.parametrize("dialect", reference.DIALECTS)
def test_nan_and_inf_reach_exactly_who_sees_them(argument, poison, dialect):
    """Positions 4 to 6 are a segment of their own: what they hold is nothing to positions 0 to 3, in any result."""
    arrays = random((2, 7, 2, 3), (2, 7, 1, 3), (2, 7, 1, 2), (2, 7, 2, 2))
    options = {"segment_lengths": [4, 2], "dilation_rates": [1, 1], "dialect": dialect}

    def results():
        out, lse = reference.dilated_attention(*arrays[:3], **options)
        return out, lse.swapaxes(1, 2), *reference.dilated_attention_gradients(*arrays, **options)

    clean = results()
    arrays[argument][0, 5] = poison
    poisoned = results()
    for before, after in zip(clean, poisoned, strict=True):
        assert_close(after[:, :4], before[:, :4], 1e-13, "result of another segment")
        assert_close(after[1], before[1], 1e-13, "result of another batch entry")
    out, _, grad_query, *_ = poisoned
    assert not np.isfinite(grad_query[0, 5]).any()
    assert argument == 3 or not np.isfinite(out[0, 5, :, 0]).all()


def test_an_unseen_query_s_nan_gradient_goes_nowhere():
    query, key, value, grad_out = random((1, 3, 1, 2), (1, 3, 1, 2), (1, 3, 1, 2), (1, 3, 1, 2))
    query[0, 1], grad_out[0, 1] = np.nan, np.inf
    M = np.array([[1, 0, 1], [0, 0, 0], [1, 0, 2]])
    out, lse = reference.attention(query, key, value, M)
    gradients = reference.attention_gradients(query, key, value, M, grad_out)
    assert all(np.isfinite(array).all() for array in (out, *gradients))
    assert lse[0, 0, 1] == -np.inf
    assert (gradients.query[0, 1] == 0).all()


def test_scale_of_zero_is_a_scale():
    """Every visible key weighs its count: the mean of the values, no gradient for query and key."""
    case = NAMED["scale of zero"]
    query, key, value, grad_out = case.arrays()
    M = reference.multiplicity(case.length, case.heads, case.branches)
    out, lse = reference.dilated_attention(query, key, value, **case.schedule, scale=0.0)
    gradients = reference.dilated_attention_gradients(query, key, value, grad_out, **case.schedule, scale=0.0)
    mean = np.einsum("hij,bjhd->bihd", M / M.sum(axis=2, keepdims=True), value)
    assert_close(out, mean, 1e-14, "out")
    assert_close(lse, np.broadcast_to(np.log(M.sum(axis=2)), lse.shape), 1e-14, "lse")
    assert (gradients.query == 0).all()
    assert (gradients.key == 0).all()


@pytest.mark.parametrize("dialect", reference.DIALECTS)
@pytest.mark.parametrize("case", [Case(0, ((3, 2),)), Case(5, ((3, 2),), batch=0), Case(5, ((3, 2),), value_dim=0)])
def test_empty_dimensions(case, dialect):
    arrays = case.arrays()
    out, lse = reference.dilated_attention(*arrays[:3], **case.schedule, dialect=dialect)
    gradients = reference.dilated_attention_gradients(*arrays, **case.schedule, dialect=dialect)
    assert out.shape == arrays[3].shape
    assert lse.shape == (case.batch, case.heads, case.length)
    assert [gradient.shape for gradient in gradients] == [array.shape for array in arrays[:3]]


def test_no_keys_at_all():
    out, lse = reference.attention(np.ones((1, 2, 1, 3)), np.ones((1, 0, 1, 3)), np.ones((1, 0, 1, 4)), True)
    np.testing.assert_array_equal(out, np.zeros((1, 2, 1, 4)))
    np.testing.assert_array_equal(lse, np.full((1, 1, 2), -np.inf))


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int64, np.uint8, np.bool_])
def test_every_real_dtype_is_computed_in_float64(dtype):
    arrays = [(3 * array).astype(dtype) for array in Case(7, ((3, 1),), kv_heads=2).arrays()]
    options = {"segment_lengths": [3, 7], "dilation_rates": [1, 2]}
    exact = [array.astype(np.float64) for array in arrays]
    for ours, same in zip(
        (
            *reference.dilated_attention(*arrays[:3], **options),
            *reference.dilated_attention_gradients(*arrays, **options),
        ),
        (
            *reference.dilated_attention(*exact[:3], **options),
            *reference.dilated_attention_gradients(*exact, **options),
        ),
        strict=True,
    ):
        assert ours.dtype == np.float64
        np.testing.assert_array_equal(ours, same)


@pytest.mark.parametrize("dialect", reference.DIALECTS)
def test_inputs_are_left_alone_and_results_are_new(dialect):
    arrays = Case(7, ((3, 1),), kv_heads=2).arrays()
    for array in arrays:
        array.flags.writeable = False
    copies = [array.copy() for array in arrays]
    options = {"segment_lengths": [3, 7], "dilation_rates": [1, 2], "dialect": dialect}
    results = (
        *reference.dilated_attention(*arrays[:3], **options),
        *reference.dilated_attention_gradients(*arrays, **options),
    )
    for array, copy in zip(arrays, copies, strict=True):
        np.testing.assert_array_equal(array, copy)
        assert not any(np.shares_memory(array, result) for result in results)


def test_any_strides():
    arrays = Case(7, ((3, 1),), kv_heads=2, batch=2).arrays()
    strided = [array[::-1].swapaxes(1, 3).copy().swapaxes(1, 3)[::-1] for array in arrays]
    options = {"segment_lengths": [3, 7], "dilation_rates": [1, 2]}
    assert not any(array.flags.c_contiguous for array in strided)
    for ours, same in zip(
        reference.dilated_attention_gradients(*strided, **options),
        reference.dilated_attention_gradients(*arrays, **options),
        strict=True,
    ):
        assert_close(ours, same, 1e-14, "gradient")
