"""The judge: nothing that is not a number passes, form comes before values, and the words say what is wrong."""

import dataclasses

import numpy as np
import pytest

from attention_gate.verify.judge.comparison import assemble, judge, shares
from attention_gate.verify.judge.oracle import answer
from attention_gate.verify.rank.attended import Attended
from tests.verify.cases import case_of, shards_of

TENSORS = ("out", "lse", "query.grad", "key.grad", "value.grad")
CASE = case_of(world_size=3, length=7, batch=2)


def right(case, lse=True):
    """What correct ranks bring home."""
    expected = answer(case).expected
    found = []
    for owned in shards_of(case).keys:
        arrays = {name: expected[name][:, :, owned] if name == "lse" else expected[name][:, owned] for name in TENSORS}
        facts = {name: f"tensor {array.shape} {case.dtype} cpu" for name, array in arrays.items()}
        found.append(Attended(arrays, facts))
    return found


def judged(case, attended, **options):
    return judge(case, attended, shards_of(case), answer(case), **options)


def test_what_is_right_passes_whole():
    verdict = judged(CASE, right(CASE), purity=True)
    assert verdict.finding is None
    assert verdict.budget_used == 0.0


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e9])
@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("rank", [0, 2])
def test_one_wrong_number_anywhere_fails(rank, name, value):
    attended = right(CASE)
    attended[rank].arrays[name] = attended[rank].arrays[name].copy()
    attended[rank].arrays[name].flat[-1] = value
    verdict = judged(CASE, attended)
    assert verdict.finding.outcome == "fail"
    assert verdict.finding.tensor == name
    assert verdict.budget_used > 1.0
    others = " and ".join(str(r) for r in range(3) if r != rank)
    extent = f"is wrong in 1 of {answer(CASE).expected[name].size} elements, on rank {rank} (ranks {others} are right)"
    assert verdict.finding.headline.endswith(extent)


def test_a_sinks_gradient_that_does_not_arrive_is_missing():
    case = CASE.replace(sink="near")
    attended = right(case)
    for part in attended:
        part.arrays["sink.grad"] = None
    finding = judged(case, attended).finding
    assert finding.tensor == "sink.grad"
    assert finding.headline == "the gradient of sink is missing on ranks 0, 1 and 2"


def test_nan_everywhere_does_not_match_a_missing_answer():
    got = np.full((2, 3), np.nan)
    assert np.isinf(shares(got, np.ones((2, 3)), np.ones((2, 3)), "float64")).all()
    assert np.isinf(shares(np.ones((2, 3)), got, np.ones((2, 3)), "float64")).all()


def test_a_budget_that_is_no_number_allows_nothing():
    assert shares(np.ones(1), np.zeros(1), np.full(1, np.nan), "float64").tolist() == [np.inf]
    assert shares(np.ones(1), np.ones(1), np.full(1, np.nan), "float64").tolist() == [0.0]


def test_the_lse_of_a_row_that_sees_nothing_is_minus_infinity_and_no_number():
    case = case_of(length=4, segment_lengths=(2,), dilation_rates=(3,))
    attended = right(case)
    blind = np.argwhere(np.isneginf(attended[0].arrays["lse"]))[0]
    assert judged(case, attended).finding is None
    for value in (-1e9, np.finfo(float).min, 0.0, np.nan, np.inf):
        attended = right(case)
        attended[0].arrays["lse"] = attended[0].arrays["lse"].copy()
        attended[0].arrays["lse"][tuple(blind)] = value
        finding = judged(case, attended).finding
        assert finding.tensor == "lse"
        assert "expected -inf, got" in finding.details[1]
        assert "sees nothing: out is 0 and lse -inf" in finding.details[2]


def test_an_overflow_is_right_only_where_the_dtype_cannot_hold_the_number():
    expected, budget = np.array([7e4, 6e4, -7e4]), np.full(3, 10.0)
    got = np.array([np.inf, np.inf, -np.inf])
    assert shares(got, expected, budget, "float16").tolist() == [0.0, np.inf, 0.0]
    assert np.isinf(shares(-got, expected, budget, "float16")).all()
    assert np.isinf(shares(got, expected, budget, "float32")).all()


FORMS = {
    "shape": ("tensor (2, 3, 4, 3) float64 cpu", "the output on rank 0 is tensor (2, 3, 4, 3) float64 cpu, expected"),
    "dtype": ("tensor (2, 3, 4, 2) float32 cpu", "expected tensor (2, 3, 4, 2) float64 cpu"),
    "device": ("tensor (2, 3, 4, 2) float64 cuda", "expected tensor (2, 3, 4, 2) float64 cpu"),
    "kind": ("a list", "the output on rank 0 is a list, expected tensor (2, 3, 4, 2) float64 cpu"),
    "None": ("None", "the output on rank 0 is None, expected"),
}


@pytest.mark.parametrize("form", FORMS)
def test_form_comes_before_values(form):
    fact, words = FORMS[form]
    attended = right(CASE)
    attended[0].facts["out"] = fact
    finding = judged(CASE, attended).finding
    assert (finding.outcome, finding.tensor) == ("fail", "out")
    assert words in finding.headline


def test_the_lse_may_be_wider_than_the_inputs_and_never_narrower_than_float32():
    case = dataclasses.replace(CASE, dtype="bfloat16")
    for dtype, allowed in (("float32", True), ("float64", True), ("bfloat16", False)):
        attended = right(case)
        for part in attended:
            part.facts["lse"] = part.facts["lse"].replace("bfloat16", dtype)
        assert (judged(case, attended, names=()).finding is None) == allowed
    attended = right(CASE)
    attended[1].facts["lse"] = attended[1].facts["lse"].replace("float64", "float32")
    assert "log-sum-exp on rank 1" in judged(CASE, attended).finding.headline


def test_a_gradient_that_did_not_arrive_is_no_match():
    attended = right(CASE)
    attended[1].arrays["key.grad"] = None
    assert judged(CASE, attended).finding.headline == "the gradient of key is missing on rank 1 (None)"
    for part in attended:
        part.arrays["key.grad"] = None
    assert "is missing on ranks 0, 1 and 2" in judged(CASE, attended).finding.headline


def test_a_gradient_that_nobody_asked_for_is_not_missed():
    case = dataclasses.replace(CASE, requires_grad="v")
    attended = right(case)
    for part in attended:
        for name in ("query.grad", "key.grad"):
            del part.arrays[name], part.facts[name]
    assert judged(case, attended).finding is None


def test_an_empty_shard_may_have_no_gradient():
    case = case_of(world_size=4, length=3)
    attended = right(case)
    assert len(shards_of(case).keys[3]) == 0
    attended[3].arrays["key.grad"] = None
    assert judged(case, attended).finding is None


def test_what_a_call_did_besides_is_a_finding_only_if_it_is_asked_for():
    attended = right(CASE)
    for rank in (0, 2):
        attended[rank].remarks.append("key was modified")
    assert judged(CASE, attended).finding is None
    assert judged(CASE, attended, purity=True).finding.headline == "key was modified (ranks 0 and 2)"


def test_rows_are_put_to_their_places():
    for name in TENSORS:
        np.testing.assert_array_equal(assemble(CASE, right(CASE), shards_of(CASE), name), answer(CASE).expected[name])
