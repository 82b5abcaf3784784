"""How far rounding may carry a correct implementation from the oracle, element by element.

A running error analysis to first order, with u the unit roundoff of the inputs' dtype and a that of the accumulator
(float32 for half types). A correct implementation may round the attention weights, dS, each block's output and the
result to the inputs' dtype, as fused kernels do, and accumulates in at least float32, in any order:

    scores      sigma_ij = a ((head_dim + 2) |scale| sum |q_i| |k_j| + 2 max_j |s_ij| + 2 |lse_i|)
    weights     rho_ij   = u + a n_i + sigma_ij + sum_j P_ij sigma_ij         (relative to P_ij; n_i keys are seen)
    out_i       sum_j P_ij ((rho_ij + u) |v_j| + sigma_ij |out_i|) + u |out_i|
    lse_i       sum_j P_ij sigma_ij + a (n_i + |lse_i|)
    dV_j        sum_i P_ij (rho_ij + u + a n) |dO_i| + u |dV_j|
    D_i         delta_i = |dO_i| . (error of out_i) + a value_dim |dO_i| . |out_i|
    dS_ij       epsilon_ij = S_ij (rho_ij + u) + P_ij (a value_dim |dO_i| . |v_j| + delta_i),
                with S_ij = P_ij |dO_i| . (|v_j| + |out_i|), which is no less than |dS_ij|
    dQ_i        |scale| sum_j (epsilon_ij + a n_i S_ij) |k_j| + u |dQ_i|,   dK_j likewise

plus what underflow below the smallest number of the dtype loses, in each pair and in each of as many blocks as there
are pairs. The constant in front is in `CONSTANT`.
"""

from __future__ import annotations

import numpy as np

from attention_gate import reference

Budget = dict[str, np.ndarray]

#: Unit roundoff of each dtype.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}

#: Unit roundoff of what each dtype is accumulated in.
ACCUMULATOR = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-24, "float16": 2.0**-24}

#: Smallest positive number of each dtype that is sure to last: GPUs' fused kernels and CPUs that are told to take
#: subnormal numbers of float32, and with it of bfloat16, for zero.
SMALLEST = {"float64": 2.0**-1074, "float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-24}

#: Largest finite number of each dtype.
LARGEST = {"float64": 1.7976931348623157e308, "float32": 3.4028234e38, "bfloat16": 3.3895314e38, "float16": 65504.0}

#: An error up to this many times the analysis is within the budget, for second-order terms and constants that it leaves
#: out: three times the largest that correct implementations showed; tests/calibration/fit.py has the rule and the data.
CONSTANT = 2.5


@np.errstate(all="ignore")
def error_budget(
    query: np.ndarray,
    key: np.ndarray,
    value: np.ndarray,
    upstream: np.ndarray,
    multiplicity: np.ndarray,
    *,
    scale: float | None,
    dtype: str,
    expected: dict[str, np.ndarray],
) -> Budget:
    """The largest error allowed in each element of "out", "lse", "query.grad", "key.grad" and "value.grad".

    query, key, value, upstream and the expected results are float64 in the layouts of the contract; multiplicity is
    (heads, length, length). Rows that see nothing have a budget of the underflow alone.
    """
    heads, head_dim, value_dim = query.shape[2], query.shape[3], value.shape[3]
    group = heads // key.shape[2]
    u, a, tiny = UNIT_ROUNDOFF[dtype], ACCUMULATOR[dtype], SMALLEST[dtype]
    P, lse = reference.weights(query, key, multiplicity, scale)
    scale = abs(head_dim**-0.5 if scale is None else scale)
    seen = np.broadcast_to(multiplicity > 0, P.shape)
    pairs = np.broadcast_to(multiplicity, P.shape)  # branches may be computed, and underflow, one by one
    keys_seen = np.broadcast_to(multiplicity.sum(axis=-1), lse.shape)
    queries_seen = np.broadcast_to(multiplicity.sum(axis=-2), lse.shape)[..., None, :]

    Q, dO, out_size = (np.abs(x).swapaxes(1, 2) for x in (query, upstream, expected["out"]))
    K, V = (np.repeat(np.abs(x).swapaxes(1, 2), group, axis=1) for x in (key, value))
    magnitude = scale * (Q @ K.mT)
    top = np.where(seen, magnitude, 0.0).max(axis=-1, keepdims=True, initial=0.0)
    lse_size = np.where(np.isneginf(lse), 0.0, np.abs(lse))
    sigma = a * ((head_dim + 2) * magnitude + 2 * top + 2 * lse_size[..., None])
    mean_sigma = (P * sigma).sum(axis=-1)
    rho = u + a * keys_seen[..., None] + sigma + mean_sigma[..., None]

    out = (P * (rho + u)) @ V + (P * sigma).sum(axis=-1, keepdims=True) * out_size
    out += u * out_size + tiny * (1 + keys_seen[..., None] + pairs @ V)
    lse_error = mean_sigma + a * (keys_seen + lse_size) + SMALLEST["float32" if a > 1e-10 else "float64"]

    dP_size = dO @ V.mT
    delta = (dO * out).sum(axis=-1, keepdims=True) + a * value_dim * (dO * out_size).sum(axis=-1, keepdims=True)
    dP_and_D = dP_size + (dO * out_size).sum(axis=-1, keepdims=True)
    dS = P * dP_and_D
    epsilon = dS * (rho + u) + P * (a * value_dim * dP_size + delta) + tiny * pairs * (1 + dP_and_D)
    dV = (P * (rho + u + a * queries_seen)).mT @ dO + tiny * (1 + queries_seen.mT + pairs.mT @ dO)
    dQ = scale * ((epsilon + a * keys_seen[..., None] * dS) @ K) + tiny * (1 + keys_seen[..., None])
    dK = scale * ((epsilon + a * queries_seen * dS).mT @ Q) + tiny * (1 + queries_seen.mT)
    budget = {
        "out": out.swapaxes(1, 2),
        "lse": lse_error,
        "query.grad": dQ.swapaxes(1, 2) + u * np.abs(expected["query.grad"]),
        "key.grad": _over_groups(dK, group) + u * np.abs(expected["key.grad"]),
        "value.grad": _over_groups(dV, group) + u * np.abs(expected["value.grad"]),
    }
    return {name: CONSTANT * bound for name, bound in budget.items()}


def _over_groups(array: np.ndarray, group: int) -> np.ndarray:
    """(batch, heads, length, dim) of the query heads to (batch, length, kv_heads, dim): errors of a group add up."""
    batch, heads, length, dim = array.shape
    return array.reshape(batch, heads // group, group, length, dim).sum(axis=2).swapaxes(1, 2)
