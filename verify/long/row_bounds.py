"""The running error analysis of judge/error_budget.py by whole rows: bounds from the largest inputs alone.

Its terms belong to pairs of query and key, which are too many. Each is at most what the largest inputs make of it, with
Q, K, V, O the largest |q|, |k|, |v|, |dO|, and |q|_2, |k|_2 the largest lengths of a row of one head:

    sum_d |q_d| |k_d| <= |q|_2 |k|_2 (Cauchy-Schwarz), so  top = |scale| |q|_2 |k|_2 + |slope| distance >= |s_ij|
    -top <= lse <= top + log n  (and the sink),            ell = top + log n + |sink|
    sigma = a ((head_dim + 4 + n) top + 2 ell) + 6 a top   rho = u + a n + 2 sigma             mu = a n
    sum_j P_ij <= 1, |v_j| <= V:      out_i  (rho + u + sigma + mu) V + u |out_i|,     lse_i  sigma + a (n + ell)
    |dO_i| . |v_j| <= value_dim O V = D:   delta = value_dim O (out's bound) + a value_dim D,  S_ij <= 2 P_ij D
    e = 2 D (rho + u + cap) + a value_dim D + delta,   cap = a (2 (head_dim + 4) top / softcap + 6), 0 without one
    dQ_i   |scale| K (e + 2 a n D + mu D) + u |dQ_i|
    dK_j   |scale| Q (p_j (e + 2 a m D) + m mu D) + u |dK_j|
    dV_j   O (p_j (rho + u + a m) + m mu) + u |dV_j|

n: the most keys that a query sees, m: the most queries that see a key, over a group of heads; p_j = sum_i P_ij, which
the sampled oracle yields for free as one more column of dV, whose upstream gradient is 1. What is bounded row by row is
no less than what is bounded pair by pair, so that what is within error_budget is within this. It is looser, and in a
half type over thousands of keys it says little; rms_error.py has the sharper question there.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.data import per_head
from attention_gate.verify.judge.error_budget import ACCUMULATOR, CONSTANT, SMALLEST, UNIT_ROUNDOFF, Budget


@dataclass(frozen=True)
class Largest:
    """Of each input the largest magnitude of an element and the largest length of a row of one head."""

    query: tuple[float, float]
    key: tuple[float, float]
    value: tuple[float, float]
    upstream: tuple[float, float]


def row_bounds(
    case: Case,
    largest: Largest,
    expected: dict[str, np.ndarray],
    *,
    keys_seen: int,
    queries_seen: int,
    column_sums: np.ndarray,
    share: float = 1.0,
) -> Budget:
    """The largest error allowed in each element of ``expected``, whatever rows these are.

    ``column_sums`` is p_j, (batch, keys, kv_heads); ``share`` of the branches' sum comes out, in a dialect that takes
    their mean.
    """
    u, a, tiny = UNIT_ROUNDOFF[case.dtype], ACCUMULATOR[case.dtype], SMALLEST[case.dtype]
    n, m, d, dv = keys_seen, queries_seen * (case.heads // case.kv_heads), case.head_dim, case.value_dim
    scale = abs(d**-0.5 if case.scale is None else case.scale)
    (Q, q), (K, k), (V, _), (dO, _) = (largest.query, largest.key, largest.value, largest.upstream)
    top = scale * q * k + _of_slopes(case)
    sink = per_head(case, "sink") if case.sink is not None else np.zeros(1)
    ell = top + math.log(n) + float(np.abs(sink[np.isfinite(sink)]).max(initial=0.0))
    sigma = a * ((d + 4 + n) * top + 2 * ell) + 6 * a * top
    rho, mu = u + a * n + 2 * sigma, a * n
    out = (rho + u + sigma + mu) * V + tiny * (1 + n) * (1 + V)
    D = dv * dO * V
    delta = dv * dO * (out + u * V) + a * dv * D
    cap = 0.0 if case.softcap is None else a * (2 * (d + 4) * top / case.softcap + 6)
    e = 2 * D * (rho + u + cap) + a * dv * D + delta
    p = column_sums[..., None]
    lost = tiny * (2 + n + m) * (1 + D) * (1 + Q + K + dO)
    found = {
        "out": out,
        "lse": np.asarray(sigma + a * (n + ell) + SMALLEST["float32" if a > 1e-10 else "float64"]),
        "query.grad": scale * K * (e + 2 * a * n * D + mu * D) + lost,
        "key.grad": scale * Q * (p * (e + 2 * a * m * D) + m * mu * D) + lost,
        "value.grad": dO * (p * (rho + u + a * m) + m * mu) + lost,
    }
    return {
        name: CONSTANT * (share * found[name] + u * np.abs(right) if name != "lse" else found[name])
        for name, right in expected.items()
    }


def _of_slopes(case: Case) -> float:
    """What slopes add to the size of a score at most."""
    if not case.slopes:
        return 0.0
    left, right = case.window or (None, None)
    reach = [case.length if bound is None else bound for bound in (left, 0 if case.is_causal else right)]
    return float(np.abs(per_head(case, "slopes")).max()) * max(reach)
