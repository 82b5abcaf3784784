"""Attention under any multiplicity matrix, and its gradients."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attention_gate.reference._arguments import counts, like_out, query_and_key, query_key_value, scale_or_default

Floats = NDArray[np.float64]


class Gradients(NamedTuple):
    """What one loss asks of each input, each in the shape of its input, float64."""

    query: Floats
    key: Floats
    value: Floats


@np.errstate(all="ignore")
def weights(
    query: ArrayLike, key: ArrayLike, multiplicity: ArrayLike, scale: float | None = None
) -> tuple[Floats, Floats]:
    """The attention weights P_ij = M_ij exp(s_ij - lse_i), where lse_i = log sum_j M_ij exp(s_ij).

        P, lse = weights(query, key, multiplicity(7, 2, branches([3, 7], [1, 2])))
        P, lse = weights(query, key, np.tri(7, dtype=bool), scale=0.0)

    query (batch, n_q, heads, head_dim), key (batch, n_k, kv_heads, head_dim), real numbers of any dtype, heads a
    multiple of kv_heads; query head h reads kv head h // (heads // kv_heads). multiplicity: non-negative integers or
    bool that broadcast to (heads, n_q, n_k); sliding windows or packed documents are just other matrices. scale:
    1 / sqrt(head_dim) if None. Returns P (batch, heads, n_q, n_k) and lse (batch, heads, n_q), float64.

    A query that sees nothing has P = 0 and lse = -inf. An unseen key takes no part, whatever it holds; a seen NaN or
    inf goes where arithmetic takes it. Raises TypeError for dtypes, ValueError for shapes and negative counts.
    """
    query, key = query_and_key(query, key)
    heads, head_dim = query.shape[2:]
    M = counts(multiplicity, (heads, query.shape[1], key.shape[1]))
    return _weights(_by_head(query, heads), _by_head(key, heads), M, scale_or_default(scale, head_dim))


@np.errstate(all="ignore")
def attention(
    query: ArrayLike, key: ArrayLike, value: ArrayLike, multiplicity: ArrayLike, scale: float | None = None
) -> tuple[Floats, Floats]:
    """The output out_i = sum_j P_ij v_j, and lse.

        out, lse = attention(query, key, value, multiplicity(7, 2, branches([3, 7], [1, 2])))

    value (batch, n_k, kv_heads, value_dim); the rest as in `weights`. Returns out (batch, n_q, heads, value_dim) and
    lse (batch, heads, n_q), float64. A query that sees nothing has out = 0 and lse = -inf.
    """
    query, key, value = query_key_value(query, key, value)
    heads, head_dim = query.shape[2:]
    M = counts(multiplicity, (heads, query.shape[1], key.shape[1]))
    Q, K, V = (_by_head(array, heads) for array in (query, key, value))

    P, lse = _weights(Q, K, M, scale_or_default(scale, head_dim))
    out = _sum_seen(P, M > 0, V)
    return _by_position(out, heads), lse


@np.errstate(all="ignore")
def attention_gradients(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    multiplicity: ArrayLike,
    grad_out: ArrayLike,
    scale: float | None = None,
) -> Gradients:
    """The exact gradients of sum(out * grad_out), by the formulas of FlashAttention (arXiv 2205.14135, appendix B).

        dq, dk, dv = attention_gradients(query, key, value, multiplicity(7, 2, branches([3, 7], [1, 2])), grad_out)

    grad_out (batch, n_q, heads, value_dim), the shape of out; the rest as in `attention`. A kv head that serves several
    query heads gets the sum of their gradients. A query that sees nothing has gradient 0 and gives none.
    """
    query, key, value = query_key_value(query, key, value)
    grad_out = like_out(grad_out, query, value)
    heads, kv_heads, head_dim = query.shape[2], key.shape[2], query.shape[3]
    M = counts(multiplicity, (heads, query.shape[1], key.shape[1]))
    seen = M > 0
    scale = scale_or_default(scale, head_dim)
    Q, K, V, dO = (_by_head(array, heads) for array in (query, key, value, grad_out))

    P, _ = _weights(Q, K, M, scale)
    D = (dO * _sum_seen(P, seen, V)).sum(axis=-1, keepdims=True)
    dV = _sum_seen(P.mT, seen.mT, dO)
    dS = np.where(seen, P * (dO @ V.mT - D), 0.0)
    dQ = scale * _sum_seen(dS, seen, K)
    dK = scale * _sum_seen(dS.mT, seen.mT, Q)
    return Gradients(_by_position(dQ, heads), _by_position(dK, kv_heads), _by_position(dV, kv_heads))


def _weights(Q: Floats, K: Floats, M: Floats, scale: float) -> tuple[Floats, Floats]:
    seen = M > 0
    s = np.where(seen, scale * (Q @ K.mT), -np.inf)
    # Only seen logits may set the maximum, else a huge unseen one drives every term to 0; nothing seen has no maximum.
    top = np.where(seen.any(axis=-1, keepdims=True), s.max(axis=-1, keepdims=True, initial=-np.inf), 0.0)
    terms = M * np.exp(s - top)
    total = terms.sum(axis=-1, keepdims=True)
    P = np.where(seen, terms / total, 0.0)
    lse = top + np.log(total)
    return P, lse[..., 0]


def _by_head(array: Floats, heads: int) -> Floats:
    """(batch, length, heads or kv_heads, dim) to (batch, heads, length, dim): query head h reads kv head h // group."""
    group = heads // array.shape[2]
    return np.repeat(array.swapaxes(1, 2), group, axis=1)


def _by_position(array: Floats, heads: int) -> Floats:
    """The way back, and its transpose: where one of `heads` was repeated over a group, the sum over the group."""
    batch, repeated, length, dim = array.shape
    return array.reshape(batch, heads, repeated // heads, length, dim).sum(axis=2).swapaxes(1, 2)


def _sum_seen(matrix: Floats, seen: NDArray[np.bool_], rows: Floats) -> Floats:
    """sum_j matrix_ij rows_j over the seen j, where matrix is 0 at the unseen."""
    if np.isfinite(rows).all():
        return matrix @ rows
    # 0 * NaN is NaN: beside NaN or inf the unseen must be left out one by one.
    return np.where(seen[..., None], matrix[..., None] * rows[..., None, :, :], 0.0).sum(axis=-2)
