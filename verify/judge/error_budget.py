"""How far rounding may carry a correct implementation from the oracle, element by element.

A running error analysis to first order, with u the unit roundoff of the inputs' dtype and a that of the accumulator
(float32 for half types). A correct implementation may round the attention weights, dS, each block's output and the
result to the inputs' dtype, as fused kernels do, and accumulates in at least float32. It may cut the keys into blocks
as it likes, at most one for each key seen, merge them in any order by any formula that is stable, and take gradients
by its own formulas or by autograd through the merges. V_i, K_i: the largest |v_j|, |k_j| that query i sees, in each
dimension; n_i: how many keys it sees. A block's output is bounded by V_i and by nothing smaller: the large values of a
block may cancel in the sum of all blocks.

    scores      sigma_ij = a ((head_dim + 2) |scale| sum |q_i| |k_j| + (2 + n_i) max_j |s_ij| + 2 |lse_i|)
    weights     rho_ij   = u + a n_i + sigma_ij + sum_j P_ij sigma_ij         (relative to P_ij)
    out_i       sum_j P_ij ((rho_ij + u) |v_j| + sigma_ij V_i) + u |out_i| + mu_i V_i
    lse_i       sum_j P_ij sigma_ij + a (n_i + |lse_i|)
    dV_j        sum_i P_ij (rho_ij + u + a n) |dO_i| + u |dV_j| + sum_i mu_i |dO_i|
    D_i         delta_i = |dO_i| . (error of out_i) + a value_dim |dO_i| . V_i
    dS_ij       epsilon_ij = S_ij (rho_ij + u) + P_ij (a value_dim |dO_i| . |v_j| + delta_i),
                with S_ij = P_ij |dO_i| . (|v_j| + V_i), which is no less than |dS_ij|
    dQ_i        |scale| (sum_j (epsilon_ij + a n_i S_ij) |k_j| + mu_i |dO_i| . V_i K_i) + u |dQ_i|
    dK_j        |scale| sum_i (epsilon_ij + a n S_ij + mu_i |dO_i| . V_i) |q_i| + u |dK_j|

mu_i = a n_i is what merging costs, and it is not weighted by P: in ring attention's update out - g (out - block_out),
with g = sigmoid(block_lse - lse), the weight 1 - g of the older keys is off by a, however small it is. There are at
most n_i merges, and the error of each is shared out among the older keys by weights whose sum is 1; in the gradients it
meets |dO_i| . V_i, the largest change of the loss that a weight can make. The lse of a merge is off by a max |s|: so
the n_i in sigma.

Also, what is smaller than the dtype's smallest normal number may be lost, in each pair and in each of as many blocks
as there are pairs. The constant in front is in `CONSTANT`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from attention_gate import reference

Budget = dict[str, np.ndarray]

#: Unit roundoff of each dtype.
UNIT_ROUNDOFF = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-8, "float16": 2.0**-11}

#: Unit roundoff of what each dtype is accumulated in.
ACCUMULATOR = {"float64": 2.0**-53, "float32": 2.0**-24, "bfloat16": 2.0**-24, "float16": 2.0**-24}

#: Smallest positive number of each dtype that is sure to last. Subnormal numbers are not guaranteed: GPUs'
#: fused kernels and CPUs that are set so take them for zero, and products of them have few digits or none. Those of
#: float16 alone last everywhere, as all is computed in float32 there.
SMALLEST = {"float64": 2.0**-1022, "float32": 2.0**-126, "bfloat16": 2.0**-126, "float16": 2.0**-24}

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
    narrow_products: bool = False,
    terms: Mapping[str, Any] | None = None,
    positions: tuple[np.ndarray, np.ndarray] | None = None,
    in_parts: slice = slice(0, 0),
) -> Budget:
    """The largest error allowed in each element of "out", "lse", "query.grad", "key.grad" and "value.grad".

    query, key, value, upstream and the expected results are float64 in the layouts of the contract; multiplicity is
    (heads, queries, keys), positions are those of queries and keys, as reference.attention takes them. Of the keys
    ``in_parts`` each rank returns its own part of the gradients, each part rounded. Rows that see nothing have a budget
    of the underflow alone. With ``narrow_products`` the scores may be rounded to the dtype, as autocast rounds every
    product.
    """
    heads, head_dim, value_dim = query.shape[2], query.shape[3], value.shape[3]
    group = heads // key.shape[2]
    u, a, tiny = UNIT_ROUNDOFF[dtype], ACCUMULATOR[dtype], SMALLEST[dtype]
    terms = terms or {}
    softcap, slopes, sink = (terms.get(name) for name in ("softcap", "slopes", "sink"))
    of_scores: dict[str, Any] = {"softcap": softcap, "slopes": slopes, "positions": positions, "sink": sink}
    P, lse = reference.weights(query, key, multiplicity, scale, **of_scores)
    scale = abs(head_dim**-0.5 if scale is None else scale)
    seen = np.broadcast_to(multiplicity > 0, P.shape)
    pairs = np.broadcast_to(multiplicity, P.shape)  # branches may be computed, and underflow, one by one
    keys_seen = np.broadcast_to(multiplicity.sum(axis=-1), lse.shape)
    queries_seen = np.broadcast_to(multiplicity.sum(axis=-2), (*P.shape[:2], P.shape[-1]))[..., None, :]

    Q, dO, out_size = (np.abs(x).swapaxes(1, 2) for x in (query, upstream, expected["out"]))
    K, V = (np.repeat(np.abs(x).swapaxes(1, 2), group, axis=1) for x in (key, value))
    magnitude = scale * (Q @ K.mT)
    size = magnitude + _farthest(slopes, P.shape, positions)
    top = np.where(seen, size, 0.0).max(axis=-1, keepdims=True, initial=0.0)
    lse_size = np.where(np.isneginf(lse), 0.0, np.abs(lse))
    merges = a * keys_seen[..., None]
    sigma = a * ((head_dim + 2) * magnitude + 2 * top + 2 * lse_size[..., None]) + merges * top
    if terms:  # a cap and slopes are a few operations more on each score
        sigma += 6 * a * size
    sigma += u * magnitude if narrow_products else 0.0
    mean_sigma = (P * sigma).sum(axis=-1)
    share, sink_size = _of_sink(sink, lse)
    mean_sigma = mean_sigma + share * a * (4 + 2 * sink_size + 2 * lse_size)
    rho = u + merges + sigma + mean_sigma[..., None]

    V_seen, K_seen = _largest_seen(seen, V), _largest_seen(seen, K)
    out = (P * (rho + u)) @ V + mean_sigma[..., None] * V_seen + merges * V_seen
    out += u * out_size + tiny * (1 + keys_seen[..., None] + pairs @ V)
    lse_error = mean_sigma + a * (keys_seen + lse_size) + SMALLEST["float32" if a > 1e-10 else "float64"]

    dP_size = dO @ V.mT
    D_size = (dO * V_seen).sum(axis=-1, keepdims=True)
    delta = (dO * out).sum(axis=-1, keepdims=True) + a * value_dim * D_size
    dP_and_D = dP_size + D_size
    dS = P * dP_and_D
    # The factor 1 - tanh^2, at most 1, is off by twice the error of the tanh, and rounded.
    dS_of_cap = 0.0 if softcap is None else dS * a * (2 * (head_dim + 4) * magnitude / softcap + 6)
    epsilon = dS_of_cap + dS * (rho + u) + P * (a * value_dim * dP_size + delta) + tiny * pairs * (1 + dP_and_D)
    dV = (P * (rho + u + a * queries_seen) + merges * seen).mT @ dO + tiny * (1 + queries_seen.mT + pairs.mT @ dO)
    dQ = scale * ((epsilon + merges * dS) @ K + merges * D_size * K_seen) + tiny * (1 + keys_seen[..., None])
    dK = scale * ((epsilon + a * queries_seen * dS + merges * D_size * seen).mT @ Q) + tiny * (1 + queries_seen.mT)
    dV[..., in_parts, :] += u * (P.mT @ dO)[..., in_parts, :]
    dK[..., in_parts, :] += u * scale * (dS.mT @ Q)[..., in_parts, :]
    budget = {
        "out": out.swapaxes(1, 2),
        "lse": lse_error,
        "query.grad": dQ.swapaxes(1, 2) + u * np.abs(expected["query.grad"]),
        "key.grad": _over_groups(dK, group) + u * np.abs(expected["key.grad"]),
        "value.grad": _over_groups(dV, group) + u * np.abs(expected["value.grad"]),
    }
    if sink is not None:
        u_sink = a if dtype != "float64" else u
        of_rows = share * (D_size[..., 0] * (mean_sigma + lse_error + a * (8 + 2 * sink_size)) + delta[..., 0])
        # The sink's weight may be taken as 1 - sigmoid(lse - sink), as autograd through a sigmoid does.
        of_rows += np.where(np.isfinite(sink)[:, None], a * D_size[..., 0], 0.0)
        summed = a * np.prod(lse.shape[::2]) * (share * D_size[..., 0]).sum(axis=(0, 2))
        budget["sink.grad"] = of_rows.sum(axis=(0, 2)) + summed + u_sink * np.abs(expected["sink.grad"]) + tiny
    return {name: CONSTANT * bound for name, bound in budget.items()}


def _farthest(
    slopes: np.ndarray | None, shape: tuple[int, ...], positions: tuple[np.ndarray, np.ndarray] | None
) -> np.ndarray:
    """What slopes may add to the size of a score, (heads, queries, keys): at most the slope times the distance."""
    if slopes is None:
        return np.zeros(())
    queries, keys = positions or (np.arange(shape[-2]), np.arange(shape[-1]))
    return np.abs(slopes)[:, None, None] * np.abs(queries[:, None] - keys)


def _of_sink(sink: np.ndarray | None, lse: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The sink's weight in each row (batch, heads, queries), and its size (heads, 1)."""
    if sink is None:
        return np.zeros_like(lse), np.zeros((lse.shape[1], 1))
    finite = np.isfinite(sink)[:, None]
    return np.where(finite, np.exp(sink[:, None] - lse), 0.0), np.where(finite, np.abs(sink)[:, None], 0.0)


def _largest_seen(seen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The largest of the rows (batch, heads, keys, dim) that each query sees, dimension by dimension; 0 of none.

    seen (batch, heads, queries, keys) is the same for the whole batch, and no row is negative.
    """
    if seen.all() and seen.size:
        return np.broadcast_to(rows.max(axis=-2, keepdims=True), (*seen.shape[:-1], rows.shape[-1]))
    found = np.zeros((*seen.shape[:-1], rows.shape[-1]))
    if seen.size:
        for head in range(seen.shape[1]):
            found[:, head] = _largest_of_head(seen[0, head], rows[:, head])
    return found


def _largest_of_head(seen: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The same of one head: seen (queries, keys), rows (batch, keys, dim).

    Queries are taken in the order of what they see, where one that sees all that the last one saw, and more, comes
    after it: of its keys only those that are new to it need to be looked at.
    """
    bits = np.packbits(seen, axis=-1)
    order = np.argsort(bits.view(f"V{bits.shape[-1]}")[:, 0])
    seen = seen[order]
    last = np.concatenate([np.zeros_like(seen[:1]), seen[:-1]])
    begins = (last & ~seen).any(axis=-1)
    begins[0] = True
    new = seen & (begins[:, None] | ~last)
    count = new.sum(axis=-1)
    some = np.flatnonzero(count)
    largest = np.zeros((rows.shape[0], len(order), rows.shape[-1]))
    if some.size:
        of_new = rows[:, np.nonzero(new)[1]]
        largest[:, some] = np.maximum.reduceat(of_new, (np.cumsum(count) - count)[some], axis=1)
    starts = np.flatnonzero(begins)
    for start, end in zip(starts, [*starts[1:], len(order)], strict=True):
        largest[:, start:end] = np.maximum.accumulate(largest[:, start:end], axis=1)
    return largest[:, np.argsort(order)]


def _over_groups(array: np.ndarray, group: int) -> np.ndarray:
    """(batch, heads, length, dim) of the query heads to (batch, length, kv_heads, dim): errors of a group add up."""
    batch, heads, length, dim = array.shape
    return array.reshape(batch, heads // group, group, length, dim).sum(axis=2).swapaxes(1, 2)
