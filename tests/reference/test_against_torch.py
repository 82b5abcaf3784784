"""Gradients against torch's autograd, which differentiates the definition in float64."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given

from attention_gate import reference
from tests.reference import prose
from tests.reference.cases import NAMED, Case, assert_close, bounds, cases, reproducible


def longnet(case, query, key, value):
    """One softmax over the multiset of visible keys, written out key by key."""
    return by_query(case, query, key, value, lambda i, h: softmax_mean([prose.multiset(i, h, case)]))


def torchscale(case, query, key, value):
    """Each branch's own softmax, mixed by the branches' softmax denominators, which are detached."""

    def rule(i, h):
        return softmax_mean(prose.multiset_by_branch(i, h, case, prose.torchscale_offset))

    return by_query(case, query, key, value, rule)


def grouped_mean(case, query, key, value):
    """Each group of heads attends in its own branch and is 0 in the others; the branches' outputs are averaged."""
    groups = np.array_split(np.arange(case.heads), len(case.pairs))
    outputs = []
    for index, ((w, r), group) in enumerate(zip(case.pairs, groups, strict=True)):

        def rule(i, h, w=w, r=r, offset=index % r, group=group):
            keys = [j for j in range(case.length) if prose.sees(i, j, w, r, offset, case.is_causal)]
            return softmax_mean([keys if h in group else []])

        outputs.append(by_query(case, query, key, value, rule))
    return torch.stack(outputs).mean(dim=0)


def softmax_mean(key_lists):
    """A function of one query's logits and the values; more than one list is mixed with detached weights."""

    def apply(logits, values):
        parts = [(logits[keys], values[keys]) for keys in key_lists if keys]
        if not parts:
            return values.new_zeros(values.shape[1])
        shares = torch.stack([torch.logsumexp(part, dim=0) for part, _ in parts]).softmax(dim=0).detach()
        means = torch.stack([part.softmax(dim=0) @ seen for part, seen in parts])
        return shares @ means

    return apply


def by_query(case, query, key, value, rule):
    scale = 1 / math.sqrt(case.head_dim) if case.scale is None else case.scale
    if case.length == 0:
        return query.new_zeros(case.batch, 0, case.heads, case.value_dim)
    rules = {(i, h): rule(i, h) for i in range(case.length) for h in range(case.heads)}

    def row(b, i, h):
        logits = scale * key[b, :, h // case.group] @ query[b, i, h]
        return rules[i, h](logits, value[b, :, h // case.group])

    return torch.stack(
        [
            torch.stack([torch.stack([row(b, i, h) for h in range(case.heads)]) for i in range(case.length)])
            for b in range(case.batch)
        ]
    )


DIALECTS = {"longnet": longnet, "torchscale": torchscale, "grouped-mean": grouped_mean}


def check_against_autograd(case, dialect):
    *inputs, grad_out = case.arrays()
    leaves = [torch.tensor(array, requires_grad=True) for array in inputs]
    expected_out = DIALECTS[dialect](case, *leaves)
    loss = (expected_out * torch.tensor(grad_out)).sum()
    expected = [torch.zeros_like(leaf) for leaf in leaves]
    if loss.requires_grad:
        grads = torch.autograd.grad(loss, leaves, allow_unused=True)
        expected = [zeros if grad is None else grad for grad, zeros in zip(grads, expected, strict=True)]

    options = {**case.schedule, "scale": case.scale, "dialect": dialect}
    out, _ = reference.dilated_attention(*inputs, **options)
    gradients = reference.dilated_attention_gradients(*inputs, grad_out, **options)
    assert_close(out, expected_out.detach().numpy(), bounds(case)["out"], "out")
    for name, gradient in zip(gradients._fields, expected, strict=True):
        assert_close(getattr(gradients, name), gradient.numpy(), bounds(case)[name], f"gradient of {name}")


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", NAMED)
def test_gradients_at_the_named_corners(name, dialect):
    check_against_autograd(NAMED[name], dialect)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_gradients_at_random(dialect):
    @reproducible
    @given(cases(longest=8))
    def check(case):
        check_against_autograd(case, dialect)

    check()


def test_every_dialect_is_judged():
    assert tuple(DIALECTS) == reference.DIALECTS


def test_detaching_the_branch_weights_changes_the_gradient():
    """Else the test of `torchscale` would pass with the exact gradient."""
    case = Case(8, ((4, 1), (8, 1)))
    arrays = case.arrays()
    exact, detached = (
        reference.dilated_attention_gradients(*arrays, **case.schedule, dialect=dialect)
        for dialect in ("longnet", "torchscale")
    )
    np.testing.assert_allclose(exact.value, detached.value, atol=1e-14)
    assert np.abs(exact.query - detached.query).max() > 0.01
    assert np.abs(exact.key - detached.key).max() > 0.01


def test_more_branches_than_heads_leave_some_branches_without_heads():
    check_against_autograd(Case(9, ((4, 1), (5, 2), (9, 3), (3, 1)), group=3), "grouped-mean")


def test_grouped_mean_lse_is_the_own_branch_s():
    case = Case(9, ((4, 1), (9, 2)), kv_heads=3)
    query, key, value, _ = case.arrays()
    _, lse = reference.dilated_attention(query, key, value, **case.schedule, dialect="grouped-mean")
    groups = (((4, 1), 0, (0, 1)), ((9, 2), 1, (2,)))
    for (w, r), offset, heads in groups:
        for h in heads:
            for i in range(9):
                seen = [j for j in range(9) if prose.sees(i, j, w, r, offset, False)]
                terms = np.exp(key[0, seen, h] @ query[0, i, h] / 3**0.5)
                assert_close(lse[0, h, i], np.log(terms.sum()) if seen else -np.inf, 1e-14, f"lse[0, {h}, {i}]")
