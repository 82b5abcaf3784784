"""Forward, lse and all gradients against the oracle, on worlds of one to four ranks."""

import numpy as np
import pytest
import torch
import torch.distributed as dist

from tests.impls.cases import (
    IMPLEMENTATIONS,
    Case,
    assert_close,
    attend,
    collect,
    expected,
    own_tensors,
    random_case,
    run_case,
    whole,
)
from tests.impls.worlds import results

pytestmark = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)

CORNERS = {
    "nothing divides anything": Case(19, ((7, 3), (5, 2), (19, 4)), heads=5, kv_heads=5),
    "shards start off the dilation": Case(10, ((5, 2),), heads=2, kv_heads=2),
    "segment ends and begins within a shard": Case(14, ((5, 1), (3, 1)), is_causal=True),
    "segment longer than the sequence": Case(9, ((100, 2),), is_causal=True),
    "rate above the segment length": Case(9, ((3, 8), (9, 20)), heads=4, kv_heads=4),
    "numbers beyond any integer type": Case(9, ((10**30, 1), (10**30, 10**30)), is_causal=True),
    "dense": Case(13, ((13, 1),)),
    "dense causal": Case(13, ((13, 1),), is_causal=True),
    "a key in three branches": Case(8, ((8, 1), (8, 1), (4, 1)), is_causal=True),
    "most rows see nothing": Case(17, ((8, 5),), heads=2, kv_heads=2, is_causal=True),
    "fewer rows than ranks": Case(3, ((2, 1), (3, 1)), is_causal=True),
    "one row": Case(1, ((1, 1),)),
    "no rows": Case(0, ((4, 2),), is_causal=True),
    "no batch": Case(6, ((4, 2),), batch=0),
    "heads share keys across offsets": Case(11, ((11, 3), (6, 2)), heads=6, kv_heads=2, is_causal=True),
    "all heads share one key": Case(11, ((11, 4),), heads=5, kv_heads=1),
    "wide values": Case(9, ((9, 2),), head_dim=1, value_dim=7),
    "no value": Case(6, ((6, 2),), value_dim=0),
    "scale 0": Case(9, ((9, 2), (4, 1)), scale=0.0, is_causal=True),
    "negative scale": Case(9, ((9, 2), (4, 1)), scale=-1.5),
    "whole scale": Case(9, ((9, 2), (4, 1)), scale=2),
}


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_random_cases(implementation: str, size: int) -> None:
    for seed in range(30):
        case = random_case(1000 * size + seed)
        assert_close(results(size, run_case, implementation, case), case)


@pytest.mark.parametrize("size", [1, 3, 4])
@pytest.mark.parametrize("name", CORNERS)
def test_corners(implementation: str, name: str, size: int) -> None:
    assert_close(results(size, run_case, implementation, CORNERS[name]), CORNERS[name])


@pytest.mark.parametrize("is_causal", [False, True])
def test_logits_far_beyond_the_range_of_exp(implementation: str, is_causal: bool) -> None:
    case = Case(11, ((11, 1), (6, 2)), is_causal=is_causal, spread=100.0)
    logits = np.abs(expected(case)["lse"])
    assert logits[np.isfinite(logits)].max() > 1e4
    assert_close(results(3, run_case, implementation, case), case, tolerance=1e-10)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 3e-6), ("bfloat16", 2e-2), ("float16", 2e-3)])
def test_dtypes(implementation: str, dtype: str, tolerance: float) -> None:
    case = Case(23, ((12, 2), (23, 1)), is_causal=True, heads=4, kv_heads=2, dtype=dtype)
    assert_close(results(4, run_case, implementation, case), case, tolerance)


def test_half_types_round_once(implementation: str) -> None:
    case = Case(64, ((64, 1), (32, 2)), heads=2, kv_heads=2, head_dim=8, value_dim=8, dtype="bfloat16")
    answers = results(4, run_case, implementation, case)
    out = np.concatenate([answer["out"] for answer in answers], axis=1)
    once = torch.from_numpy(expected(case)["out"]).bfloat16().double().numpy()
    # Twice float32's spacing may carry a value across a rounding boundary; only such values may differ.
    assert np.mean(out != once) < 0.01


def run_in_pieces(rank: int, implementation: str, case: Case, scores: int) -> dict[str, np.ndarray]:
    from attention_gate.impls import block

    kept = block._SCORES_AT_A_TIME
    block._SCORES_AT_A_TIME = scores
    try:
        return run_case(rank, implementation, case)
    finally:
        block._SCORES_AT_A_TIME = kept


@pytest.mark.parametrize("scores", [1, 7, 40])
@pytest.mark.parametrize("is_causal", [False, True])
def test_pieces_of_a_block_make_the_whole(implementation: str, is_causal: bool, scores: int) -> None:
    case = Case(19, ((8, 2), (19, 1)), is_causal=is_causal, heads=4, kv_heads=2)
    assert_close(results(2, run_in_pieces, implementation, case, scores), case)


def run_with_poison(rank: int, implementation: str, case: Case, value: float) -> list[np.ndarray]:
    query, key, value_rows, _ = own_tensors(case, dist.get_world_size(), rank)
    if rank == 1:
        key.data[:, 0] = value
        value_rows.data[:, 1] = value
    out = attend(implementation)(query, key, value_rows, **case.options)
    out.sum().backward()
    return [result.detach().numpy() for result in (out, query.grad, key.grad, value_rows.grad)]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_and_inf_reach_those_who_see_them_and_no_other_segment(implementation: str, value: float) -> None:
    case = Case(12, ((6, 1),), heads=2, kv_heads=2)  # Of three ranks' rows, 0-5 and 6-11 are the segments.
    answers = results(3, run_with_poison, implementation, case, value)
    out, grad_query, grad_key, grad_value = (np.concatenate(parts, axis=1) for parts in zip(*answers, strict=True))
    assert not np.isfinite(out[:, :6]).any()
    for rows in (out, grad_query, grad_key, grad_value):
        assert np.isfinite(rows[:, 6:]).all()


def run_with_infinite_keys(rank: int, implementation: str, case: Case, infinite_ranks: list[int]) -> np.ndarray:
    """Attend where all queries are positive and the keys of some ranks are -inf, whose scores are then -inf too."""
    query, key, value, _ = (tensor.detach() for tensor in own_tensors(case, dist.get_world_size(), rank))
    if rank in infinite_ranks:
        key.fill_(float("-inf"))
    return attend(implementation)(query.abs(), key, value, **case.options).numpy()


@pytest.mark.parametrize("infinite_ranks", [[0], [1, 2]])
def test_keys_of_score_minus_infinity_weigh_nothing(implementation: str, infinite_ranks: list[int]) -> None:
    case = Case(6, ((6, 1),), heads=2, kv_heads=2, head_dim=1)
    query, key, value, _ = whole(case)
    seen = [row for row in range(6) if row // 2 not in infinite_ranks]
    scores = np.einsum("bihd,bjhd->bhij", np.abs(query), key[:, seen])
    weights = np.exp(scores) / np.exp(scores).sum(-1, keepdims=True)
    right = np.einsum("bhij,bjhd->bihd", weights, value[:, seen])
    out = np.concatenate(results(3, run_with_infinite_keys, implementation, case, infinite_ranks), axis=1)
    np.testing.assert_allclose(out, right, rtol=0, atol=1e-12)


def run_with_infinite_keys_only(rank: int, implementation: str, case: Case) -> list[np.ndarray]:
    query, key, value, grad_out = own_tensors(case, dist.get_world_size(), rank)
    key.data.fill_(float("-inf"))
    out, lse = attend(implementation)(query.detach().abs(), key, value, return_lse=True, **case.options)
    out.backward(grad_out)
    assert value.grad is not None
    return [result.detach().numpy() for result in (out, lse, value.grad)]


def test_where_every_key_weighs_nothing_the_row_is_as_one_that_sees_nothing(implementation: str) -> None:
    case = Case(6, ((6, 1),), heads=2, kv_heads=2, head_dim=1)
    for out, lse, grad_value in results(3, run_with_infinite_keys_only, implementation, case):
        assert (out == 0).all()
        assert (lse == -np.inf).all()
        assert (grad_value == 0).all()


def run_under_autocast(rank: int, implementation: str, case: Case) -> dict[str, np.ndarray]:
    size = dist.get_world_size()
    query, key, value, grad_out = own_tensors(case, size, rank)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, lse = attend(implementation)(
            query, key, value, sequence_length=case.length, return_lse=True, **case.options
        )
        out.backward(grad_out)
    return collect(out, lse, query, key, value)


def test_autocast_does_not_reach_inside(implementation: str) -> None:
    case = Case(11, ((11, 1), (4, 2)), dtype="float32")
    assert_close(results(2, run_under_autocast, implementation, case), case, tolerance=3e-6)


def run_under_a_default_device(rank: int, implementation: str, case: Case) -> dict[str, np.ndarray]:
    with torch.device("meta"):
        return run_case(rank, implementation, case)


@pytest.mark.parametrize("size", [1, 2])
def test_a_default_device_does_not_reach_inside(implementation: str, size: int) -> None:
    """Not of the lengths of other tests, whose plans are kept."""
    for case in (Case(29, ((29, 1), (4, 2)), is_causal=True), Case(31, ((3, 1),))):
        assert_close(results(size, run_under_a_default_device, implementation, case), case)
