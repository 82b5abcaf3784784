"""NaN and infinity: what must show, what must stay as it is, and what right programs may do."""

from __future__ import annotations

import pytest
import torch

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.non_finite import NON_FINITE
from attention_gate.verify.judge.session import Session
from attention_gate.verify.target.loading import as_target

HERE = "tests.verify.checks.test_non_finite"
CASE = Case(world_size=2, length=6, batch=2, heads=4, kv_heads=2, head_dim=3, segment_lengths=(6,), requires_grad="")


def _right(query, key, value, **options):
    from attention_gate.impls import collective

    return collective.attend(query, key, value, **options)


def hides(query, key, value, **options):
    """What is not finite becomes 0, on the way out."""
    return _right(query, key, value, **options).nan_to_num()


def hides_infinity(query, key, value, **options):
    """The largest finite number in its place."""
    return _right(query, key, value.clamp(-1e300, 1e300), **options)


def spreads(query, key, value, **options):
    """A sum over the batch and the heads that cancels, unless something in it is not finite."""
    total = value.sum(dim=(1, 2, 3)).sum()
    return _right(query, key, value, **options) + (total - total)


def mixes_queries(query, key, value, **options):
    """One NaN among the queries reaches the next one."""
    out = _right(query, key, value, **options)
    return out + 0.0 * query.sum(dim=1, keepdim=True)[..., :1]


def unseen_changes(query, key, value, **options):
    """Queries before a NaN are scaled: no NaN, and wrong."""
    out = _right(query, key, value.nan_to_num(), **options)
    return torch.where(value.isnan().any(), 2.0 * out, out)


def zero_where_all_scores_are_nan(query, key, value, **options):
    """As torch's kernel on a CPU: a query of NaN sees nothing."""
    out = _right(query.nan_to_num(), key, value, **options)
    return torch.where(query.isnan().any(-1, keepdim=True), 0.0, out)


def examined(worlds, name, case, **parameters):
    session = Session(*as_target(name if ":" in name else f"{HERE}:{name}"), worlds, (1, 2))
    return NON_FINITE.examine(session, case, {"position": 1, "batch": 0, "head": 0} | parameters)


@pytest.mark.parametrize(
    ("name", "input", "value", "words"),
    [
        ("hides", "value", "nan", "does not reach outputs that depend on it"),
        ("hides", "value", "inf", "does not reach outputs that depend on it"),
        ("hides", "key", "nan", "does not reach outputs that depend on it"),
        ("hides_infinity", "value", "inf", "does not reach outputs that depend on it"),
        ("spreads", "value", "nan", "have nothing to do with it"),
        ("spreads", "value", "-inf", "have nothing to do with it"),
        ("mixes_queries", "query", "nan", "have nothing to do with it"),
    ],
)
def test_what_arithmetic_does_not_do_is_found(worlds, name, input, value, words):
    finding = examined(worlds, name, CASE, input=input, value=value).finding
    assert finding is not None
    assert words in finding.headline


def test_an_unseen_nan_may_not_change_numbers(worlds):
    case = CASE.replace(is_causal=True)
    finding = examined(worlds, "unseen_changes", case, input="value", value="nan", position=5).finding
    assert finding is not None


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
@pytest.mark.parametrize("input", ["query", "key", "value"])
@pytest.mark.parametrize("name", ["ulysses", "dtensor", "two_way_ring", "sigmoid_ring"])
def test_right_programs_are_let_through(worlds, name, input, value):
    for causal in (False, True):
        case = CASE.replace(is_causal=causal)
        verdict = examined(worlds, f"tests.verify.correct.written:{name}", case, input=input, value=value)
        assert verdict.finding is None


def test_a_kernel_that_takes_nan_scores_for_nothing_is_let_through(worlds):
    assert examined(worlds, "zero_where_all_scores_are_nan", CASE, input="query", value="nan").finding is None


def test_where_nan_meets_a_weight_of_zero_is_a_remark(worlds):
    case = CASE.replace(is_causal=True)
    verdict = examined(worlds, "tests.verify.correct.written:wide_gather", case, input="value", value="nan", position=5)
    assert verdict.finding is None
    assert "as a weight of 0 times NaN does" in verdict.remark[1]
