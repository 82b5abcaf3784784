"""Root-mean-square errors in units of one rounding; they separate a rounded accumulator from rounded terms.

On the cases of case/precision_cases.py the terms of every sum agree in sign. Rounding terms, each by itself, then
averages out; rounding each of B equal blocks' results adds 1/B to the squared error of the one final rounding, 1; but a
running sum kept in the same dtype adds sum_k (k/B)^2, about B/3. At B = 4 that is sqrt(1.25) = 1.12 against
sqrt(1.875) = 1.37, at B = 8, on which it is measured, 1.06 against 1.9. The first is correct, the second is not;
element by element both are within bounds. Of fewer than three blocks the one costs as much as the other.
"""

from __future__ import annotations

import numpy as np

from attention_gate.verify.judge.error_budget import UNIT_ROUNDOFF

#: The largest root-mean-square error allowed, in units of one rounding to the inputs' dtype (of the lse: to float32).
#: By number of blocks, larger ones being judged as the last, and of branches, "one" or "several": equal branches have
#: equal roundings, which add up. Fitted on correct implementations: tests/calibration/fit.py has the rule and the data.
RMS_LIMITS = {
    (3, "one"): {"out": 1.42, "lse": 25.08, "query.grad": 1.5, "key.grad": 1.62, "value.grad": 1.6},
    (3, "several"): {"out": 1.43, "lse": 41.84, "query.grad": 1.5, "key.grad": 1.65, "value.grad": 1.6},
    (4, "one"): {"out": 1.51, "lse": 33.96, "query.grad": 1.49, "key.grad": 1.8, "value.grad": 1.48},
    (4, "several"): {"out": 1.51, "lse": 48.46, "query.grad": 1.5, "key.grad": 1.8, "value.grad": 1.48},
    (8, "one"): {"out": 1.36, "lse": 35.93, "query.grad": 1.39, "key.grad": 1.43, "value.grad": 1.36},
    (8, "several"): {"out": 1.36, "lse": 65.8, "query.grad": 1.39, "key.grad": 1.53, "value.grad": 1.36},
}

#: Fewer elements than this make no reliable root-mean-square.
ELEMENTS = 1024


def regime(blocks: int, branches: int) -> tuple[int, str]:
    """What a limit depends on: the key of its row in the table, for at least three blocks.

    Of numbers between those in the table the lower one counts: more blocks leave less of what their rounding costs.
    """
    return max(count for count, _ in RMS_LIMITS if count <= blocks), "one" if branches == 1 else "several"


def rms_ratio(got: np.ndarray, right: np.ndarray, dtype: str, least: int = ELEMENTS) -> float:
    """Root-mean-square error over that of rounding ``right`` once; 0 where fewer than ``least`` elements tell."""
    usual = np.isfinite(got) & np.isfinite(right) & (right != 0)
    if usual.sum() < least:
        return 0.0
    # A rounding error is spread evenly over half a spacing to either side; the spacing is that of the power of two.
    spacing = 2 * UNIT_ROUNDOFF[dtype] * 2.0 ** np.floor(np.log2(np.abs(right[usual])))
    return float(np.sqrt(((got[usual] - right[usual]) ** 2).sum() / (spacing**2 / 12).sum()))
