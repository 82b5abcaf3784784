"""Numbers with fewer binary digits than their dtype holds: the mark of a result that passed through a narrower one.

A float16 has 11 significant bits, a bfloat16 8. Of the results of a correct implementation in float16 at most about one
in eight has its last three bits zero by chance; of those that were rounded to bfloat16 all have. No error bound shows
this: in float16 the rounding to bfloat16 is eight roundings, where a gradient may be off by twenty.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from attention_gate.verify.case.data import rounded

#: Significant bits of each dtype.
BITS = {"float64": 53, "float32": 24, "float16": 11, "bfloat16": 8}

#: The exponent of each dtype's smallest number that has all of its bits.
_LEAST = {"float64": -1022, "float32": -126, "float16": -14, "bfloat16": -126}

#: More than the share of a correct implementation's results that happen to be so short (an eighth or less).
_BY_CHANCE = 0.25

#: A finding has odds of less than one in two to this power.
_SURE = 64.0


@dataclass(frozen=True)
class Short:
    """Results that fit into a narrower dtype: ``count`` of the ``of`` informative numbers."""

    narrower: str
    count: int
    of: int


def shortened(got: np.ndarray, right: np.ndarray, budget: np.ndarray, dtype: str) -> Short | None:
    """Whether the results in ``dtype`` passed through a narrower dtype; returns the narrowest that holds them.

    Informative numbers would not be short if they were right, are right in their first bits, and are not repeated:
    whatever is coarse by itself (zeros, copies of an input, what underflows, noise where the right answer is 0) is not
    counted.
    """
    due = np.abs(rounded(np.nan_to_num(right), dtype))
    usual = np.isfinite(got) & (got != 0) & (4 * budget <= due) & (due >= 2.0 ** _LEAST[dtype])
    for narrower in sorted(BITS, key=BITS.__getitem__):
        if BITS[narrower] >= BITS[dtype]:
            return None
        tell = usual & ~_fit(due, BITS[narrower])
        _, first = np.unique(due[tell], return_index=True)
        short = _fit(got[tell][first], BITS[narrower])
        if _surprise(int(short.sum()), short.size) >= _SURE:
            return Short(narrower, int(short.sum()), short.size)
    return None


def _fit(numbers: np.ndarray, bits: int) -> np.ndarray:
    """Which of the numbers fit into ``bits`` significant bits."""
    mantissa, _ = np.frexp(numbers)
    scaled = mantissa * 2.0**bits
    return np.asarray(scaled == np.floor(scaled))


def _surprise(count: int, of: int) -> float:
    """Surprise in bits: -log2 of the probability that ``count`` or more of ``of`` are short, each with `_BY_CHANCE`.

    Chernoff's bound: of n the share s or more occurs with a probability of at most 2^(-n KL(s, chance)).
    """
    share = count / max(of, 1)
    if share <= _BY_CHANCE:
        return 0.0
    rest = 0.0 if count == of else (1 - share) * math.log2((1 - share) / (1 - _BY_CHANCE))
    return of * (share * math.log2(share / _BY_CHANCE) + rest)
