"""Random small problems, and how far two right answers to one of them may lie apart."""

from dataclasses import dataclass

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from attention_gate import reference

UNIT_ROUNDOFF = 2.0**-53

reproducible = settings(
    derandomize=True, database=None, deadline=None, max_examples=200, suppress_health_check=list(HealthCheck)
)


@dataclass(frozen=True)
class Case:
    length: int
    pairs: tuple[tuple[int, int], ...]
    is_causal: bool = False
    batch: int = 1
    kv_heads: int = 1
    group: int = 1
    head_dim: int = 3
    value_dim: int = 2
    scale: float | None = None
    magnitude: float = 1.0
    seed: int = 0

    @property
    def heads(self):
        return self.kv_heads * self.group

    @property
    def schedule(self):
        return {
            "segment_lengths": [w for w, _ in self.pairs],
            "dilation_rates": [r for _, r in self.pairs],
            "is_causal": self.is_causal,
        }

    @property
    def branches(self):
        return reference.branches(*zip(*self.pairs, strict=True))

    def arrays(self):
        """query, key, value, grad_out; the logits grow with the square of the magnitude."""
        generator = np.random.default_rng(self.seed)
        shape = (self.batch, self.length)
        query = generator.normal(size=(*shape, self.heads, self.head_dim)) * self.magnitude
        key = generator.normal(size=(*shape, self.kv_heads, self.head_dim)) * self.magnitude
        value = generator.normal(size=(*shape, self.kv_heads, self.value_dim)) + 3.0
        grad_out = generator.normal(size=(*shape, self.heads, self.value_dim))
        return query, key, value, grad_out


@st.composite
def cases(draw, longest=11, magnitudes=(1.0, 1.0, 6.0, 120.0), branches=3):
    length = draw(st.integers(0, longest))
    pair = st.tuples(st.integers(1, length + 3), st.integers(1, min(length, 5) + 2))
    return Case(
        length=length,
        pairs=tuple(draw(st.lists(pair, min_size=1, max_size=branches))),
        is_causal=draw(st.booleans()),
        batch=draw(st.integers(1, 2)),
        kv_heads=draw(st.integers(1, 3)),
        group=draw(st.integers(1, 3)),
        head_dim=draw(st.integers(1, 4)),
        value_dim=draw(st.integers(1, 4)),
        scale=draw(st.sampled_from([None, None, 0.0, -0.7, 1.3])),
        magnitude=draw(st.sampled_from(magnitudes)),
        seed=draw(st.integers(0, 99)),
    )


NAMED = {
    "segment longer than the sequence": Case(5, ((9, 1),)),
    "rate above the segment length: some positions are seen by none": Case(9, ((3, 5),), group=4),
    "rate that does not divide the segment length": Case(11, ((5, 2), (7, 3)), group=3),
    "short last segment": Case(7, ((4, 1),), is_causal=True),
    "every key seen three times": Case(6, ((6, 1), (6, 1), (8, 1)), kv_heads=2),
    "two branches overlap": Case(8, ((4, 1), (8, 2)), is_causal=True, kv_heads=2, group=2),
    "huge logits": Case(7, ((3, 1), (7, 2)), magnitude=120.0, kv_heads=2, batch=2),
    "scale of zero": Case(7, ((3, 1), (7, 2)), scale=0.0, kv_heads=2, batch=2),
    "no position": Case(0, ((3, 2),)),
    "one position": Case(1, ((3, 2),), group=2),
}


def assert_close(actual, expected, bound, what):
    """Every element within the bound; NaN never counts as close, equal infinities do."""
    actual, expected = np.asarray(actual), np.asarray(expected, dtype=np.float64)
    assert actual.dtype == np.float64, f"{what} must be float64, is {actual.dtype}"
    assert actual.shape == expected.shape, f"{what} has shape {actual.shape}, must have {expected.shape}"
    with np.errstate(invalid="ignore"):
        wrong = ~((np.abs(actual - expected) <= bound) | (actual == expected))
    if wrong.any():
        first = tuple(np.argwhere(wrong)[0].tolist())
        raise AssertionError(
            f"{what}: {wrong.sum()} of {wrong.size} elements differ by more than {bound:.1e}, "
            f"first at {first}: {actual[first]!r}, must be {expected[first]!r}"
        )


def bounds(case):
    """Largest legitimate error of out, lse, dQ, dK, dV: 200 roundings of the largest term that enters each.

    A logit of size S is rounded by S u, and that moves a weight by the factor exp(S u).
    """
    query, key, value, grad_out = (np.abs(array).max(initial=1.0) for array in case.arrays())
    scale = case.head_dim**-0.5 if case.scale is None else abs(case.scale)
    logit = scale * query * key * case.head_dim
    u = 200 * UNIT_ROUNDOFF * (1 + logit)
    score = scale * grad_out * value * case.value_dim * case.group * max(case.length, 1)
    return {
        "out": u * value,
        "lse": u,
        "query": u * score * key,
        "key": u * score * query,
        "value": u * grad_out * case.group * max(case.length, 1),
    }
