"""Everything against 50-digit arithmetic on tiny cases: how many of the 16 digits are right."""

import numpy as np
import pytest

from attention_gate import reference
from tests.reference import prose
from tests.reference.cases import Case, assert_close, bounds

mpmath = pytest.importorskip("mpmath", reason="mpmath, of the dev extra, computes the 50 digits")

TINY = {
    "two branches": Case(5, ((3, 1), (5, 2)), group=2, head_dim=2, seed=1),
    "causal": Case(5, ((2, 1), (4, 1)), is_causal=True, head_dim=2, seed=2),
    "some see nothing": Case(5, ((2, 3), (5, 4)), kv_heads=3, head_dim=2, seed=3),
    "logits of 1e4": Case(4, ((3, 1), (4, 1)), head_dim=2, magnitude=120.0, seed=4),
    "logits of 1e4 that almost tie": Case(4, ((4, 1), (2, 1)), head_dim=2, magnitude=1.0, scale=1e4, seed=5),
}


def fifty_digits(case, query, key, value, grad_out):
    """out, lse and the gradients of sum(out * grad_out), differentiated numerically with a step of 1e-20."""
    query, key, value = (np.vectorize(mpmath.mpf, otypes=[object])(array) for array in (query, key, value))
    scale = 1 / mpmath.sqrt(case.head_dim) if case.scale is None else mpmath.mpf(case.scale)

    def row(h, i, query, key, value):
        kv, seen = h // case.group, prose.multiset(i, h, case)
        if not seen:
            return [mpmath.mpf(0)] * case.value_dim, -mpmath.inf
        terms = [mpmath.exp(scale * (query[0, i, h] @ key[0, j, kv])) for j in seen]
        total = mpmath.fsum(terms)
        weighted = sum(term * value[0, j, kv] for term, j in zip(terms, seen, strict=True))
        return list(weighted / total), mpmath.log(total)

    def loss(*arrays):
        return sum(
            sum(x * float(g) for x, g in zip(row(h, i, *arrays)[0], grad_out[0, i, h], strict=True))
            for h in range(case.heads)
            for i in range(case.length)
        )

    def gradient(which):
        step, arrays = mpmath.mpf("1e-20"), [query, key, value]
        result = np.empty(arrays[which].shape)
        for index in np.ndindex(result.shape):
            ends = []
            for sign in (1, -1):
                moved = arrays[which].copy()
                moved[index] += sign * step
                ends.append(loss(*arrays[:which], moved, *arrays[which + 1 :]))
            result[index] = float((ends[0] - ends[1]) / (2 * step))
        return result

    rows = [[row(h, i, query, key, value) for i in range(case.length)] for h in range(case.heads)]
    out = np.array([[[float(x) for x in r[0]] for r in of_head] for of_head in rows]).swapaxes(0, 1)[None]
    lse = np.array([[[float(r[1]) for r in of_head] for of_head in rows]])
    return out, lse, [gradient(which) for which in range(3)]


@pytest.mark.parametrize("name", TINY)
def test_the_right_digits(name):
    case = TINY[name]
    query, key, value, grad_out = case.arrays()
    with mpmath.workdps(50):
        expected_out, expected_lse, expected = fifty_digits(case, query, key, value, grad_out)
    bound = bounds(case)
    out, lse = reference.dilated_attention(query, key, value, **case.schedule, scale=case.scale)
    gradients = reference.dilated_attention_gradients(query, key, value, grad_out, **case.schedule, scale=case.scale)
    assert_close(out, expected_out, bound["out"], "out")
    assert_close(lse, expected_lse, bound["lse"], "lse")
    for field, gradient in zip(gradients._fields, expected, strict=True):
        assert_close(getattr(gradients, field), gradient, bound[field], f"gradient of {field}")
