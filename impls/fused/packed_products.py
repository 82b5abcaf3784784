"""Attention of packed sequences by plain matrix products: on a CPU, and what kernels are checked against.

All functions take (batch, rows, heads, dim) in any strides. Products are summed in float32, or in float64 where that is
the dtype.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from attention_gate.impls.fused.sequences import Sequences


def attend(
    query: Tensor, key: Tensor, value: Tensor, call: Sequences, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor]:
    """Return out (batch, rows, heads, value_dim) in the inputs' dtype, lse (batch, heads, rows) in float32 or more."""
    dtype, times = torch.promote_types(query.dtype, torch.float32), query.shape[2] // key.shape[2]
    outs, lses = [], []
    for rows, seen in _sequences(call):
        queries, keys, values = (_heads(each, dtype) for each in (query[:, rows], key[:, seen], value[:, seen]))
        scores, _ = _scores(queries, keys.repeat_interleave(times, 1), call, scale, softcap)
        lse = torch.logsumexp(scores, -1)
        outs.append((scores - lse.unsqueeze(-1)).exp() @ values.repeat_interleave(times, 1))
        lses.append(lse)
    return torch.cat(outs, 2).transpose(1, 2).to(query.dtype), torch.cat(lses, 2)


def attend_backward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    grad_out: Tensor,
    call: Sequences,
    scale: float,
    softcap: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of query, key and value by `out` and `lse` of the whole attention, each in its dtype."""
    dtype, times = torch.promote_types(query.dtype, torch.float32), query.shape[2] // key.shape[2]
    found: tuple[list[Tensor], ...] = ([], [], [])
    for rows, seen in _sequences(call):
        queries, results, grads = (_heads(each[:, rows], dtype) for each in (query, out, grad_out))
        keys, values = (_heads(each[:, seen], dtype).repeat_interleave(times, 1) for each in (key, value))
        scores, slope = _scores(queries, keys, call, scale, softcap)
        probabilities = (scores - lse[:, :, rows].unsqueeze(-1)).exp()
        delta = (grads * results).sum(-1, keepdim=True)
        grad_scores = probabilities * (grads @ values.mT - delta) * slope * scale
        per_key_head = (key.shape[2], times)
        found[0].append(grad_scores @ keys)
        found[1].append((grad_scores.mT @ queries).unflatten(1, per_key_head).sum(2))
        found[2].append((probabilities.mT @ grads).unflatten(1, per_key_head).sum(2))
    grad_query, grad_key, grad_value = (torch.cat(parts, 2).transpose(1, 2).to(query.dtype) for parts in found)
    return grad_query, grad_key, grad_value


def _sequences(call: Sequences) -> Iterator[tuple[slice, slice]]:
    """Yield where the queries and the keys of each sequence lie."""
    first_query = first_key = 0
    for queries, keys in zip(call.query_lengths, call.key_lengths, strict=True):
        yield slice(first_query, first_query + queries), slice(first_key, first_key + keys)
        first_query, first_key = first_query + queries, first_key + keys


def _heads(rows: Tensor, dtype: torch.dtype) -> Tensor:
    return rows.transpose(1, 2).to(dtype)


def _scores(
    query: Tensor, key: Tensor, call: Sequences, scale: float, softcap: float | None
) -> tuple[Tensor, Tensor | float]:
    """Return scores, -inf where a key is not seen, and the derivative of each by the product."""
    scores = (query * scale) @ key.mT
    slope: Tensor | float = 1.0
    if softcap is not None:
        ratio = (scores / softcap).tanh()
        scores, slope = softcap * ratio, 1 - ratio * ratio
    queries, keys = scores.shape[-2:]
    # How far after the key beside the query.
    ahead = torch.arange(keys, device=key.device) - torch.arange(queries, device=key.device).unsqueeze(1)
    ahead -= keys - queries
    if call.left is not None:
        scores = scores.masked_fill(ahead < -call.left, float("-inf"))
    if call.right is not None:
        scores = scores.masked_fill(ahead > call.right, float("-inf"))
    return scores, slope
