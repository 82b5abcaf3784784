"""Attention of one block of queries to one block of keys: the seam behind which a fused kernel can take its place.

The functions know rows and a `Work` that says which rows meet; they know no ranks, no shards and no process group.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from attention_gate.impls.scores import Piece, Scores, finished
from attention_gate.impls.work import Work

# How many scores exist at a time. Beyond it a block is computed in pieces, so that memory stays bounded at any length.
_SCORES_AT_A_TIME = 1 << 20


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the dtype in which products of `dtype` are summed: float64 for float64, float32 for all others."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def attend_block(query: Tensor, key: Tensor, value: Tensor, work: Work, scores: Scores) -> tuple[Tensor, Tensor]:
    """Return each query's attention to this block's keys alone, and the logarithm of its softmax denominator.

    `query` (batch, query_rows, head_dim), `key` (batch, key_rows, head_dim) and `value` (batch, key_rows, value_dim)
    are rows in any dtype. Returns out (batch, rows, value_dim) and lse (batch, rows), one for each of `work.rows`, in
    the accumulation dtype.
    """
    batch, (problems, queries) = query.shape[0], work.query_index.shape
    dtype = accumulation_dtype(query.dtype)
    out = query.new_empty((batch, problems, queries, value.shape[-1]), dtype=dtype)
    lse = query.new_empty((batch, problems, queries), dtype=dtype)
    for some, pieces in _pieces(work, batch):
        keys, values = _take(key, work.key_index[some], dtype), _take(value, work.key_index[some], dtype)
        for rows, seen in pieces:
            products = _take(query, work.query_index[some, rows], dtype).mul_(scores.scale) @ keys[..., :seen, :].mT
            of_block, _ = finished(products, scores, work, Piece(some, rows, seen))
            block_lse = torch.logsumexp(of_block, -1)
            # Where all scores are -inf so is their lse, and -inf - -inf would be NaN where nothing is meant.
            shift = block_lse.masked_fill(block_lse.isneginf(), 0.0)
            out[:, some, rows] = of_block.sub_(shift.unsqueeze(-1)).exp_() @ values[..., :seen, :]
            lse[:, some, rows] = block_lse
    out, lse = out.flatten(1, 2), lse.flatten(1, 2)
    if work.kept is not None:
        out, lse = out.index_select(1, work.kept), lse.index_select(1, work.kept)
    return out, lse


def attend_block_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    grad_out: Tensor,
    lse: Tensor,
    delta: Tensor,
    grads: tuple[Tensor, Tensor, Tensor],
    work: Work,
    scores: Scores,
) -> None:
    """Add this block's share of the gradients of query, key and value to `grads`, rows shaped as those three.

    `lse` and `delta` = sum(grad_out * out), both (batch, query_rows), are those of the whole attention, which makes
    every block independent of all others (FlashAttention-2, arXiv 2307.08691, algorithm 2):
    P = exp(s - lse), dV = P^T dO, dS = P * (dO V^T - delta), dQ = scale dS K, dK = scale dS^T Q; where scores are
    capped, dS has the derivative of the cap as a factor.
    """
    dtype = accumulation_dtype(query.dtype)
    grad_query, grad_key, grad_value = grads
    for some, pieces in _pieces(work, query.shape[0]):
        keys, values = _take(key, work.key_index[some], dtype), _take(value, work.key_index[some], dtype)
        grad_keys, grad_values = torch.zeros_like(keys), torch.zeros_like(values)
        for rows, seen in pieces:
            index = work.query_index[some, rows]
            queries, grad_outs = _take(query, index, dtype).mul_(scores.scale), _take(grad_out, index, dtype)
            shift, deltas = _take(lse.unsqueeze(-1), index, dtype), _take(delta.unsqueeze(-1), index, dtype)
            of_block, slope = finished(queries @ keys[..., :seen, :].mT, scores, work, Piece(some, rows, seen))
            probabilities = of_block.sub_(shift).exp_()
            grad_values[..., :seen, :] += probabilities.mT @ grad_outs
            grad_scores = (grad_outs @ values[..., :seen, :].mT).sub_(deltas).mul_(probabilities)
            if slope is not None:
                grad_scores *= slope
            grad_keys[..., :seen, :] += grad_scores.mT @ queries
            grad_queries = (grad_scores @ keys[..., :seen, :]).mul_(scores.scale)
            grad_query.index_add_(1, index.flatten(), grad_queries.flatten(1, 2))
        grad_key.index_add_(1, work.key_index[some].flatten(), grad_keys.flatten(1, 2))
        grad_value.index_add_(1, work.key_index[some].flatten(), grad_values.flatten(1, 2))


def _pieces(work: Work, batch: int) -> Iterator[tuple[slice, list[tuple[slice, int]]]]:
    """Yield which problems to compute at a time, and for these which queries, and how many leading keys those see."""
    (problems, queries), keys = work.query_index.shape, work.key_index.shape[1]
    allowance = max(1, _SCORES_AT_A_TIME // max(1, batch))
    rows_at_a_time = min(queries, max(1, allowance // keys))
    problems_at_a_time = max(1, allowance // (rows_at_a_time * keys))
    rows = [slice(start, start + rows_at_a_time) for start in range(0, queries, rows_at_a_time)]
    pieces = [(some, max(work.reach[some])) for some in rows]
    for start in range(0, problems, problems_at_a_time):
        yield slice(start, start + problems_at_a_time), pieces


def _take(rows: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a copy of the rows (batch, row, dim) at `index` (problem, slot) as (batch, problem, slot, dim)."""
    return rows.index_select(1, index.flatten()).unflatten(1, index.shape).to(dtype)
