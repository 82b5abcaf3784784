"""Dilated attention: the branches' multiplicity put into attention, in each dialect's way of merging."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attention_gate.reference._arguments import agree, like_out, query_key_value
from attention_gate.reference._attention import Floats, Gradients, attention, attention_gradients, weights
from attention_gate.reference._branches import branches
from attention_gate.reference._visibility import branch_masks, multiplicity


def dilated_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    is_causal: bool = False,
    scale: float | None = None,
    dialect: str = "longnet",
) -> tuple[Floats, Floats]:
    """LongNet's mixture of dilated attentions (arXiv 2307.02486): one softmax over the multiset of visible keys.

        out, lse = dilated_attention(query, key, value, segment_lengths=[4, 8], dilation_rates=[1, 2], is_causal=True)

    query (batch, length, heads, head_dim), key (batch, length, kv_heads, head_dim), value (batch, length, kv_heads,
    value_dim). Weighting each branch by its softmax denominator is this one softmax.

    `longnet` and `torchscale` differ forward only in the heads' offsets. In `grouped-mean` each head attends in the one
    branch of its group, and the sum over the branches is divided by their number: out is the branch's own output
    divided by it, and lse the branch's own, undivided.

    Returns out (batch, length, heads, value_dim) and lse (batch, heads, length), float64. Raises as `branches`,
    `branch_masks` and `attention` do, and ValueError for lengths that differ.
    """
    query, key, value = _one_sequence(query, key, value)
    pairs = branches(segment_lengths, dilation_rates)
    M = multiplicity(query.shape[1], query.shape[2], pairs, is_causal, dialect)
    out, lse = attention(query, key, value, M, scale)
    return (out / len(pairs) if dialect == "grouped-mean" else out), lse


def dilated_attention_gradients(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    grad_out: ArrayLike,
    *,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    is_causal: bool = False,
    scale: float | None = None,
    dialect: str = "longnet",
) -> Gradients:
    """The gradients of sum(out * grad_out) that the dialect's backward pass returns.

        dq, dk, dv = dilated_attention_gradients(
            query, key, value, grad_out, segment_lengths=[4, 8], dilation_rates=[1, 2], is_causal=True
        )

    Exact in `longnet` and `grouped-mean`. `torchscale` holds the branch weights constant: out_i = sum_b w_b,i o_b,i
    with w_b,i = exp(lse_b,i - lse_i) detached, so that what reaches branch b is w_b,i grad_out_i. Arguments and errors
    as in `dilated_attention`; grad_out has the shape of out.
    """
    query, key, value = _one_sequence(query, key, value)
    pairs = branches(segment_lengths, dilation_rates)
    masks = branch_masks(query.shape[1], query.shape[2], pairs, is_causal, dialect)
    if dialect == "torchscale":
        return _detached_gradients(query, key, value, masks, like_out(grad_out, query, value), scale)
    gradients = attention_gradients(query, key, value, masks.sum(axis=0), grad_out, scale)
    if dialect == "grouped-mean":
        return Gradients(*(gradient / len(pairs) for gradient in gradients))
    return gradients


@np.errstate(all="ignore")
def _detached_gradients(
    query: Floats, key: Floats, value: Floats, masks: NDArray[np.bool_], grad_out: Floats, scale: float | None
) -> Gradients:
    _, lse = weights(query, key, masks.sum(axis=0), scale)
    of_branches = []
    for mask in masks:
        _, branch_lse = weights(query, key, mask, scale)
        # A branch in which query i sees nothing has no weight, also where no branch has any: -inf - -inf is NaN.
        w = np.where(np.isneginf(branch_lse), 0.0, np.exp(branch_lse - lse))
        branch_grad_out = w.swapaxes(1, 2)[..., None] * grad_out
        of_branches.append(attention_gradients(query, key, value, mask, branch_grad_out, scale))
    return Gradients(*(np.sum(shares, axis=0) for shares in zip(*of_branches, strict=True)))


def _one_sequence(query: ArrayLike, key: ArrayLike, value: ArrayLike) -> tuple[Floats, Floats, Floats]:
    query, key, value = query_key_value(query, key, value)
    agree("key", key, "query", query, "length")
    return query, key, value
