"""Wrong formulas of the output whose softmax denominators have a term too many."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from attention_gate.verify.explain.failing_case import Array, Guess, Setting, by_head
from attention_gate.verify.explain.wrong_merges import blocks_of

_WORDS = "one term too many in the denominator: {}"


def with_a_term_too_many(s: Setting) -> Iterator[Guess]:
    """The output where 1, or the exponential of 0, is added to a denominator: of each block, or of all keys."""
    for order in ("all", "hops and branches", "hops", "branches"):
        for in_lse in (True, False):
            yield (
                _WORDS.format("it starts at 1 (the exponential of the largest score), not at 0"),
                partial(_attended, s, order, 1.0, None, in_lse),
            )
            yield (
                _WORDS.format("that of a score of 0, as of a key of zeros that nothing masks"),
                partial(_attended, s, order, 1.0, 0.0, in_lse),
            )
    yield (
        _WORDS.format("the 1 that it starts at, and another 1 at the end"),
        partial(_attended, s, "all", 2.0, None, False),
    )


@np.errstate(all="ignore")
def _attended(s: Setting, order: str, count: float, score: float | None, in_lse: bool) -> dict[str, Array]:
    """``count`` terms of that score (None: the largest) in each denominator; ``in_lse``: in the lse as well."""
    Q, K, V = (by_head(x, s.case.heads) for x in (s.inputs.query, s.inputs.key, s.inputs.value))
    scores = s.scale * (Q @ K.swapaxes(-1, -2))
    out = np.zeros((*scores.shape[:3], V.shape[-1]))
    lse = np.full(scores.shape[:3], -np.inf)
    for rank, rows in enumerate(s.positions):
        if order == "all":
            blocks = [s.masks[:, :, rows].sum(axis=0)]
        else:
            blocks = [multiplicity for _, multiplicity in blocks_of(s, rank, order)]
        for multiplicity in blocks:
            own = np.where(multiplicity > 0, scores[:, :, rows], -np.inf)
            top = own.max(axis=-1, keepdims=True, initial=-np.inf)
            top = np.where(np.isneginf(top), 0.0, top)
            weights = multiplicity * np.exp(own - top)
            total = weights.sum(axis=-1, keepdims=True)
            larger = total + count * (1.0 if score is None else np.exp(score - top))
            block = (weights @ V) / larger
            its_lse = (top + np.log(larger if in_lse else total))[..., 0]
            both = np.logaddexp(lse[:, :, rows], its_lse)
            safe = np.where(np.isneginf(both), 0.0, both)
            old, new = np.exp(lse[:, :, rows] - safe), np.exp(its_lse - safe)
            out[:, :, rows] = out[:, :, rows] * old[..., None] + block * new[..., None]
            lse[:, :, rows] = both
    result = {"out": out.swapaxes(1, 2)}
    return result | {"lse": lse} if in_lse else result
