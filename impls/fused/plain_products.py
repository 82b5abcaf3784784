"""Attention of one dense batch by plain matrix products: on a CPU, and what kernels are checked against.

All functions take (batch, heads, rows, dim) in any strides. Keys may have fewer heads than queries. Under causality
query t sees the keys up to t. Products are summed in float32, or in float64 where that is the dtype.
"""

import torch
from torch import Tensor


def attend(query: Tensor, key: Tensor, value: Tensor, is_causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Return out (batch, heads, rows, value_dim) in the inputs' dtype, lse (batch, heads, rows) in float32 or more."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    keys, values = (_for_each_head(rows.to(dtype), query.shape[1]) for rows in (key, value))
    scores = _scores(query.to(dtype), keys, is_causal, scale)
    lse = torch.logsumexp(scores, -1)
    shift = lse.masked_fill(lse.isneginf(), 0.0)
    return ((scores - shift.unsqueeze(-1)).exp() @ values).to(query.dtype), lse


def attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    is_causal: bool,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value by `out` and `lse` of the whole attention, each in its dtype."""
    dtype = torch.promote_types(query.dtype, torch.float32)
    queries, results, grads = query.to(dtype), out.to(dtype), grad_out.to(dtype)
    keys, values = (_for_each_head(rows.to(dtype), query.shape[1]) for rows in (key, value))
    shift = lse.masked_fill(lse.isneginf(), 0.0)
    probabilities = (_scores(queries, keys, is_causal, scale) - shift.unsqueeze(-1)).exp()
    delta = (grads * results).sum(-1, keepdim=True)
    grad_scores = probabilities * (grads @ values.mT - delta) * scale
    grad_key, grad_value = grad_scores.mT @ queries, probabilities.mT @ grads
    per_key_head = (key.shape[1], query.shape[1] // key.shape[1])
    grad_key, grad_value = (grad.unflatten(1, per_key_head).sum(2) for grad in (grad_key, grad_value))
    return (grad_scores @ keys).to(query.dtype), grad_key.to(key.dtype), grad_value.to(value.dtype)


def _scores(query: Tensor, key: Tensor, is_causal: bool, scale: float) -> Tensor:
    scores = (query * scale) @ key.mT
    if is_causal:
        later = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu_(1)
        scores.masked_fill_(later, float("-inf"))
    return scores


def _for_each_head(rows: Tensor, heads: int) -> Tensor:
    return rows.repeat_interleave(heads // rows.shape[1], 1)
