"""Data: a shard's rows are the rows of the whole, whichever rank makes them; streams and seeds are independent."""

import numpy as np
import pytest
import torch

from attention_gate.verify.case.data import rounded, rows
from attention_gate.verify.case.styles import DATA_STYLES
from attention_gate.verify.target.choices import DTYPES
from attention_gate.verify.target.layouts import LAYOUTS
from tests.verify.cases import case_of

NAMES = ("query", "key", "value", "upstream")


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("style", DATA_STYLES)
def test_a_shard_makes_its_rows_of_the_whole(style, dtype, layout):
    for length, shards, upstream in ((11, 3, "contiguous"), (4, 1, "expanded"), (3, 5, "transposed")):
        case = case_of(length=length, data=style, dtype=dtype, upstream=upstream, seed=length)
        for name in NAMES:
            whole = rows(case, name, np.arange(length))
            for shard in range(shards):
                owned = LAYOUTS[layout](shard, shards, length)
                np.testing.assert_array_equal(rows(case, name, owned), whole[:, owned])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_gives_every_position_to_one_rank(layout):
    for shards in range(1, 7):
        for length in range(20):
            owned = [LAYOUTS[layout](shard, shards, length) for shard in range(shards)]
            assert sorted(np.concatenate(owned).tolist()) == list(range(length))


def test_the_contiguous_layout_is_tensor_split():
    for shards in range(1, 7):
        for length in range(20):
            split = torch.tensor_split(torch.arange(length), shards)
            for shard in range(shards):
                assert LAYOUTS["contiguous"](shard, shards, length).tolist() == split[shard].tolist()


def test_shapes_are_those_of_the_contract():
    case = case_of(length=7, batch=2, heads=6, kv_heads=3, head_dim=4, value_dim=5)
    shapes = [rows(case, name, np.arange(2, 5)).shape for name in NAMES]
    assert shapes == [(2, 3, 6, 4), (2, 3, 3, 4), (2, 3, 3, 5), (2, 3, 6, 5)]


def test_streams_seeds_and_rows_are_independent():
    made = {}
    for seed in (0, 1):
        case = case_of(length=64, heads=4, kv_heads=4, head_dim=4, value_dim=4, seed=seed)
        for name in NAMES:
            made[seed, name] = rows(case, name, np.arange(64))[0].reshape(64, 16)
    everything = np.concatenate(list(made.values()))
    assert len(np.unique(everything)) == everything.size
    correlation = np.corrcoef([block.ravel() for block in made.values()])
    assert np.abs(correlation - np.eye(len(made))).max() < 0.15  # five standard deviations of 1024 pairs
    assert abs(everything.mean()) < 0.06
    assert abs(everything.std() - 1.0) < 0.05


def test_rows_do_not_depend_on_the_options_of_the_call():
    case = case_of(length=9)
    other = case_of(length=9, world_size=3, is_causal=True, buffers="packed", requires_grad="k", scale=0.5)
    np.testing.assert_array_equal(rows(case, "key", np.arange(9)), rows(other, "key", np.arange(9)))


def test_an_expanded_upstream_gradient_is_one_number_on_every_rank():
    case = case_of(length=9, upstream="expanded")
    first, second = (rows(case, "upstream", np.arange(*span)) for span in ((0, 4), (4, 9)))
    assert set(np.unique(first)) == set(np.unique(second))
    assert len(np.unique(first)) == 1
    assert first.flat[0] != 0


@pytest.mark.parametrize("dtype", DTYPES)
def test_values_are_held_by_the_dtype_exactly(dtype):
    case = case_of(length=9, dtype=dtype, data="huge")
    for name in NAMES:
        values = rows(case, name, np.arange(9))
        again = torch.from_numpy(values).to(getattr(torch, dtype)).double().numpy()
        np.testing.assert_array_equal(again, values)
        np.testing.assert_array_equal(rounded(values, dtype), values)


def _scores(style, dtype="float64"):
    case = case_of(length=32, head_dim=4, data=style, dtype=dtype)
    query, key = (rows(case, name, np.arange(32)) for name in ("query", "key"))
    return np.einsum("bihd,bjhd->bhij", query, key[:, :, :1]) / 2.0


def test_styles_are_what_their_names_say():
    assert np.abs(_scores("flat")).max() < 0.1
    assert np.abs(_scores("huge")).max() > 1e4 > 709
    assert np.abs(_scores("huge", "float32")).max() > 1e3 > 88
    assert 10 < np.abs(_scores("sharp")).max() < 709
    case = case_of(length=12, data="duplicates")
    keys = rows(case, "key", np.arange(12))
    np.testing.assert_array_equal(keys[:, :3], keys[:, 3:6])
    zeros = rows(case_of(length=12, data="zeros"), "query", np.arange(12))
    assert [bool((zeros[:, i] == 0).all()) for i in range(4)] in ([True, False] * 2, [False, True] * 2)
    offset = rows(case_of(length=64, data="offset"), "key", np.arange(64))
    assert 5 < offset.mean() < 7


@pytest.mark.parametrize("style", DATA_STYLES)
def test_every_style_has_both_signs_and_no_two_rows_alike_but_duplicates(style):
    case = case_of(length=12, head_dim=3, value_dim=3, data=style)
    for name in NAMES:
        values = rows(case, name, np.arange(12))
        if style != "offset":
            assert values.min() < 0 < values.max()
        distinct = len(np.unique(values.round(12).swapaxes(0, 1).reshape(12, -1), axis=0))
        if style == "duplicates" and name in ("key", "value"):
            assert distinct == 3
        else:
            assert distinct == (7 if style == "zeros" else 12)
