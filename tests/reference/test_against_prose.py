"""Forward against plain loops written from the definition in words."""

import numpy as np
import pytest
from hypothesis import given

from attention_gate import reference
from tests.reference import prose
from tests.reference.cases import NAMED, Case, assert_close, bounds, cases, reproducible

SAME_FORWARD = {"longnet": prose.longnet_offset, "torchscale": prose.torchscale_offset}


def check_forward(case, dialect):
    query, key, value, _ = case.arrays()
    out, lse = reference.dilated_attention(query, key, value, **case.schedule, scale=case.scale, dialect=dialect)
    expected_out, expected_lse = prose.forward(case, query, key, value, SAME_FORWARD[dialect])
    bound = bounds(case)
    assert_close(out, np.reshape(expected_out, out.shape), bound["out"], "out")
    assert_close(lse, np.reshape(expected_lse, lse.shape), bound["lse"], "lse")
    assert out.shape == (case.batch, case.length, case.heads, case.value_dim)
    assert lse.shape == (case.batch, case.heads, case.length)


@pytest.mark.parametrize("dialect", SAME_FORWARD)
@pytest.mark.parametrize("name", NAMED)
def test_forward_at_the_named_corners(name, dialect):
    check_forward(NAMED[name], dialect)


@reproducible
@given(cases())
def test_forward_is_the_softmax_over_the_multiset(case):
    check_forward(case, "longnet")


@reproducible
@given(cases())
def test_torchscale_differs_forward_in_its_offsets_alone(case):
    check_forward(case, "torchscale")


@reproducible
@given(cases())
def test_multiplicity_counts_each_branch(case):
    M = reference.multiplicity(case.length, case.heads, case.branches, case.is_causal)
    masks = reference.branch_masks(case.length, case.heads, case.branches, case.is_causal)
    positions = range(case.length)
    for h in range(case.heads):
        for i in positions:
            by_branch = prose.multiset_by_branch(i, h, case)
            assert M[h, i].tolist() == [sum(keys.count(j) for keys in by_branch) for j in positions]
            assert masks[:, h, i].tolist() == [[j in keys for j in positions] for keys in by_branch]
    assert (M.dtype, M.shape) == (np.int64, (case.heads, case.length, case.length))
    assert (masks.dtype, masks.shape) == (np.bool_, (len(case.pairs), *M.shape))


def test_the_named_corners_are_what_they_say():
    def counts(name):
        case = NAMED[name]
        return reference.multiplicity(case.length, case.heads, case.branches, case.is_causal)

    assert (counts("every key seen three times") == 3).all()
    assert set(np.unique(counts("two branches overlap"))) == {0, 1, 2}
    assert (counts("rate above the segment length: some positions are seen by none")[3] == 0).all()
    query, key, _, _ = NAMED["huge logits"].arrays()
    assert np.abs(np.einsum("bihd,bjhd->bhij", query, key)).max() > 1e4


def test_any_matrix_is_a_multiplicity():
    """A sliding window over 9 keys, seen by 6 queries, each count drawn at random: keys repeat as often as it says."""
    generator = np.random.default_rng(3)
    query, key, value = (generator.normal(size=(2, n, h, d)) for n, h, d in ((6, 4, 3), (9, 2, 3), (9, 2, 5)))
    M = np.tri(6, 9, 2, dtype=np.int64) * (1 - np.tri(6, 9, -2, dtype=np.int64)) * generator.integers(0, 4, (4, 6, 9))
    out, lse = reference.attention(query, key, value, M)
    for b, i, h in np.ndindex(out.shape[:3]):
        seen = np.repeat(np.arange(9), M[h, i])
        terms = np.exp(key[b, seen, h // 2] @ query[b, i, h] / 3**0.5)
        expected = terms @ value[b, seen, h // 2] / terms.sum() if len(seen) else np.zeros(5)
        assert_close(out[b, i, h], expected, 1e-14, f"out[{b}, {i}, {h}]")
        assert_close(lse[b, h, i], np.log(terms.sum()) if len(seen) else -np.inf, 1e-14, f"lse[{b}, {h}, {i}]")


@pytest.mark.parametrize("shape", [(4, 7, 7), (1, 7, 7), (7, 7), (4, 7, 1), (1, 7), ()])
def test_multiplicity_broadcasts(shape):
    case = Case(7, ((7, 1),), kv_heads=2, group=2)
    arrays = case.arrays()
    M = np.random.default_rng(1).integers(0, 3, shape)
    whole = np.array(np.broadcast_to(M, (4, 7, 7)))
    for actual, expected in zip(
        (*reference.attention(*arrays[:3], M), *reference.attention_gradients(*arrays[:3], M, arrays[3])),
        (*reference.attention(*arrays[:3], whole), *reference.attention_gradients(*arrays[:3], whole, arrays[3])),
        strict=True,
    ):
        np.testing.assert_array_equal(actual, expected)


def test_weights_are_the_factors_of_out():
    case = NAMED["two branches overlap"]
    query, key, value, _ = case.arrays()
    M = reference.multiplicity(case.length, case.heads, case.branches, case.is_causal)
    P, lse = reference.weights(query, key, M)
    out, same_lse = reference.attention(query, key, value, M)
    s = np.einsum("bihd,bjhd->bhij", query, np.repeat(key, 2, axis=2)) / case.head_dim**0.5
    assert_close(P, M * np.exp(s - lse[..., None]), 1e-14, "P")
    assert_close(out, np.einsum("bhij,bjhd->bihd", P, np.repeat(value, 2, axis=2)), 1e-14, "out")
    np.testing.assert_array_equal(lse, same_lse)
