"""Attention under any multiplicity matrix, and its gradients."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attention_gate.reference._arguments import (
    counts,
    like_out,
    per_head,
    positions_or_last,
    positive,
    query_and_key,
    query_key_value,
    scale_or_default,
)

Floats = NDArray[np.float64]


class Gradients(NamedTuple):
    """The gradient of a loss with respect to each input, in the shape of that input, float64."""

    query: Floats
    key: Floats
    value: Floats


class GradientsWithSink(NamedTuple):
    """The same where there is a sink: its gradient is (heads,), summed over batch and queries."""

    query: Floats
    key: Floats
    value: Floats
    sink: Floats


@np.errstate(all="ignore")
def weights(
    query: ArrayLike,
    key: ArrayLike,
    multiplicity: ArrayLike,
    scale: float | None = None,
    *,
    softcap: float | None = None,
    slopes: ArrayLike | None = None,
    positions: tuple[ArrayLike, ArrayLike] | None = None,
    sink: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """The attention weights P_ij = M_ij exp(s_ij - lse_i), where lse_i = log(sum_j M_ij exp(s_ij) + exp(sink)).

        P, lse = weights(query, key, multiplicity(7, 2, branches([3, 7], [1, 2])))
        P, lse = weights(query, key, np.tri(7, dtype=bool), scale=0.0)
        P, lse = weights(query, key, np.tri(7, dtype=bool), softcap=30.0, slopes=[0.5, 0.25], sink=[0.0, 1.0])

    query (batch, n_q, heads, head_dim), key (batch, n_k, kv_heads, head_dim), real numbers of any dtype, heads a
    multiple of kv_heads; query head h reads kv head h // (heads // kv_heads). multiplicity: non-negative integers or
    bool that broadcast to (heads, n_q, n_k); sliding windows or packed documents are just other matrices. scale:
    1 / sqrt(head_dim) if None. Returns P (batch, heads, n_q, n_k) and lse (batch, heads, n_q), float64.

    The scores are s_ij = scale q_i . k_j; with softcap cap tanh(s_ij / cap); then, with slopes (heads,), less
    slope_h |x_i - j| (ALiBi, arXiv 2108.12409), where positions are (x, j), integers (n_q,) and (n_k,); None is the
    last n_q positions of n_k. sink (heads,), one logit per query head without a value, counts once in each row's
    denominator; None, as -inf, is none.

    A query that sees nothing has P = 0, and lse = -inf or the sink. An unseen key takes no part, whatever it holds; a
    seen NaN or inf goes where arithmetic takes it. Raises TypeError for dtypes, ValueError for shapes, negative counts
    and a softcap that is not above 0.
    """
    query, key = query_and_key(query, key)
    heads = query.shape[2]
    M = counts(multiplicity, (heads, query.shape[1], key.shape[1]))
    s, _ = _scores(query, key, scale, softcap, slopes, positions)
    return _weights(s, M, _sink(sink, heads))


@np.errstate(all="ignore")
def attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    multiplicity: ArrayLike,
    scale: float | None = None,
    *,
    softcap: float | None = None,
    slopes: ArrayLike | None = None,
    positions: tuple[ArrayLike, ArrayLike] | None = None,
    sink: ArrayLike | None = None,
) -> tuple[Floats, Floats]:
    """The output out_i = sum_j P_ij v_j, and lse.

        out, lse = attention(query, key, value, multiplicity(7, 2, branches([3, 7], [1, 2])))

    value (batch, n_k, kv_heads, value_dim); the rest as in `weights`. Returns out (batch, n_q, heads, value_dim) and
    lse (batch, heads, n_q), float64. A query that sees nothing has out = 0, and lse = -inf or the sink.
    """
    query, key, value = query_key_value(query, key, value)
    heads = query.shape[2]
    M = counts(multiplicity, (heads, query.shape[1], key.shape[1]))
    s, _ = _scores(query, key, scale, softcap, slopes, positions)
    P, lse = _weights(s, M, _sink(sink, heads))
    out = _sum_seen(P, M > 0, _by_head(value, heads))
    return _by_position(out, heads), lse


@np.errstate(all="ignore")
def attention_gradients(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    multiplicity: ArrayLike,
    grad_out: ArrayLike,
    scale: float | None = None,
    *,
    softcap: float | None = None,
    slopes: ArrayLike | None = None,
    positions: tuple[ArrayLike, ArrayLike] | None = None,
    sink: ArrayLike | None = None,
) -> Gradients | GradientsWithSink:
    """The exact gradients of sum(out * grad_out), by the formulas of FlashAttention (arXiv 2205.14135, appendix B).

        dq, dk, dv = attention_gradients(query, key, value, multiplicity(7, 2, branches([3, 7], [1, 2])), grad_out)

    grad_out (batch, n_q, heads, value_dim), the shape of out; the rest as in `attention`. A kv head that serves several
    query heads gets the sum of their gradients. A query that sees nothing has gradient 0 and gives none. With softcap
    dS has the factor 1 - tanh^2; with a sink there is a fourth gradient, - sum_i exp(sink - lse_i) D_i.
    """
    query, key, value = query_key_value(query, key, value)
    grad_out = like_out(grad_out, query, value)
    heads, kv_heads, head_dim = query.shape[2], key.shape[2], query.shape[3]
    M = counts(multiplicity, (heads, query.shape[1], key.shape[1]))
    seen = M > 0
    s, slope_of_cap = _scores(query, key, scale, softcap, slopes, positions)
    scale = scale_or_default(scale, head_dim)
    Q, K, V, dO = (_by_head(array, heads) for array in (query, key, value, grad_out))

    P, lse = _weights(s, M, _sink(sink, heads))
    D = (dO * _sum_seen(P, seen, V)).sum(axis=-1, keepdims=True)
    grads = _given_weights(Q, K, V, dO, P, seen, D, scale, slope_of_cap, kv_heads)
    if sink is None:
        return grads
    return GradientsWithSink(*grads, _sink_gradient(_sink(sink, heads), lse, D))


@np.errstate(all="ignore")
def part_of_gradients(
    query: Floats,
    key: Floats,
    value: Floats,
    multiplicity: ArrayLike,
    grad_out: Floats,
    lse: Floats,
    D: Floats,
    scale: float | None = None,
    *,
    softcap: float | None = None,
    slopes: ArrayLike | None = None,
    positions: tuple[ArrayLike, ArrayLike] | None = None,
) -> Gradients:
    """What some of the queries and some of the keys add to the gradients, where lse and D are those of all keys.

    lse and D = dO . out are (batch, heads, n_q); everything else as in `attention_gradients`, whose sums these are
    parts of: with P = M exp(s - lse) every block of queries and keys is independent of the others.
    """
    heads, kv_heads = query.shape[2], key.shape[2]
    M = counts(multiplicity, (heads, query.shape[1], key.shape[1]))
    s, slope_of_cap = _scores(query, key, scale, softcap, slopes, positions)
    scale = scale_or_default(scale, query.shape[3])
    Q, K, V, dO = (_by_head(array, heads) for array in (query, key, value, grad_out))
    P = np.where(M > 0, M * np.exp(s - lse[..., None]), 0.0)
    return _given_weights(Q, K, V, dO, P, M > 0, D[..., None], scale, slope_of_cap, kv_heads)


def _given_weights(
    Q: Floats,
    K: Floats,
    V: Floats,
    dO: Floats,
    P: Floats,
    seen: NDArray[np.bool_],
    D: Floats,
    scale: float,
    slope_of_cap: Floats | float,
    kv_heads: int,
) -> Gradients:
    """The gradients by head, put back by position."""
    dV = _sum_seen(P.mT, seen.mT, dO)
    dS = np.where(seen, P * (dO @ V.mT - D) * slope_of_cap, 0.0)
    dQ = scale * _sum_seen(dS, seen, K)
    dK = scale * _sum_seen(dS.mT, seen.mT, Q)
    return Gradients(_by_position(dQ, Q.shape[1]), _by_position(dK, kv_heads), _by_position(dV, kv_heads))


def _scores(
    query: Floats,
    key: Floats,
    scale: float | None,
    softcap: float | None,
    slopes: ArrayLike | None,
    positions: tuple[ArrayLike, ArrayLike] | None,
) -> tuple[Floats, Floats | float]:
    """s (batch, heads, n_q, n_k), and the derivative of the capped score by the score, 1 without a cap."""
    heads = query.shape[2]
    s = scale_or_default(scale, query.shape[3]) * (_by_head(query, heads) @ _by_head(key, heads).mT)
    slope_of_cap: Floats | float = 1.0
    if softcap is not None:
        cap = positive("softcap", softcap)
        t = np.tanh(s / cap)
        s, slope_of_cap = cap * t, 1.0 - t**2
    if slopes is not None:
        x, j = positions_or_last(positions, query.shape[1], key.shape[1])
        s = s - per_head("slopes", slopes, heads)[:, None, None] * np.abs(x[:, None] - j)
    return s, slope_of_cap


def _sink(sink: ArrayLike | None, heads: int) -> Floats:
    """(heads, 1, 1); -inf, which adds nothing to a denominator, where there is none."""
    return (np.full(heads, -np.inf) if sink is None else per_head("sink", sink, heads))[:, None, None]


def _weights(s: Floats, M: Floats, sink: Floats) -> tuple[Floats, Floats]:
    seen = M > 0
    s = np.where(seen, s, -np.inf)
    # Only seen logits and the sink may set the maximum, else a huge unseen one drives every term to 0; where there is
    # neither, there is no maximum.
    top = np.maximum(s.max(axis=-1, keepdims=True, initial=-np.inf), sink)
    top = np.where(seen.any(axis=-1, keepdims=True) | (sink > -np.inf), top, 0.0)
    terms = M * np.exp(s - top)
    total = terms.sum(axis=-1, keepdims=True) + np.exp(sink - top)
    P = np.where(seen, terms / total, 0.0)
    lse = top + np.log(total)
    return P, lse[..., 0]


def _sink_gradient(sink: Floats, lse: Floats, D: Floats) -> Floats:
    """- sum over batch and queries of exp(sink - lse) D, (heads,); a sink of -inf has none."""
    share = np.where(sink > -np.inf, np.exp(sink - lse[..., None]), 0.0)
    return np.asarray(-(share * D).sum(axis=(0, 2, 3)))


def _by_head(array: Floats, heads: int) -> Floats:
    """(batch, length, heads or kv_heads, dim) to (batch, heads, length, dim): query head h reads kv head h // group."""
    group = heads // array.shape[2]
    return np.repeat(array.swapaxes(1, 2), group, axis=1)


def _by_position(array: Floats, heads: int) -> Floats:
    """Inverse of `_by_head`; sums over the query heads of a kv head, where these were repeated over a group."""
    batch, repeated, length, dim = array.shape
    return array.reshape(batch, heads, repeated // heads, length, dim).sum(axis=2).swapaxes(1, 2)


def _sum_seen(matrix: Floats, seen: NDArray[np.bool_], rows: Floats) -> Floats:
    """sum_j matrix_ij rows_j over the seen j, where matrix is 0 at the unseen."""
    if np.isfinite(rows).all():
        return matrix @ rows
    # 0 * NaN is NaN: beside NaN or inf the unseen must be left out one by one.
    return np.where(seen[..., None], matrix[..., None] * rows[..., None, :, :], 0.0).sum(axis=-2)
