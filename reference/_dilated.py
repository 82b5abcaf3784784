"""Dilated attention: the branches' multiplicity put into attention, in each dialect's way of merging."""

from collections.abc import Sequence
from typing import Any, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from attention_gate.reference._arguments import like_out, query_key_value
from attention_gate.reference._attention import (
    Floats,
    Gradients,
    GradientsWithSink,
    attention,
    attention_gradients,
    weights,
)
from attention_gate.reference._branches import branches
from attention_gate.reference._rows import rows
from attention_gate.reference._visibility import Mask, branch_masks


class Options(TypedDict, total=False):
    """Optional terms of a call. Each may be left out; all but `is_causal` and `dialect` may be None, which is off.

    `scale`, `softcap`, `slopes` and `sink` as in `weights`; `window`, `document_lengths`, `query_lengths` and `mask` as
    in `branch_masks`.
    """

    is_causal: bool
    scale: float | None
    dialect: str
    window: tuple[int | None, int | None] | None
    document_lengths: Sequence[int] | None
    query_lengths: Sequence[int] | None
    mask: Mask | None
    softcap: float | None
    slopes: ArrayLike | None
    sink: ArrayLike | None


def dilated_attention(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    *,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    **options: Unpack[Options],
) -> tuple[Floats, Floats]:
    """LongNet's mixture of dilated attentions (arXiv 2307.02486): one softmax over the multiset of visible keys.

        out, lse = dilated_attention(query, key, value, segment_lengths=[4, 8], dilation_rates=[1, 2], is_causal=True)
        out, lse = dilated_attention(
            query, key, value, segment_lengths=[7], dilation_rates=[1], document_lengths=[3, 4], window=(2, 0)
        )

    query (batch, n_q, heads, head_dim), key (batch, n_k, kv_heads, head_dim), value (batch, n_k, kv_heads, value_dim).
    Weighting each branch by its softmax denominator is this one softmax. `Options` lists what else may be given:
    is_causal, scale, dialect, window, document_lengths, query_lengths, mask, softcap, slopes, sink.

    `longnet` and `torchscale` differ forward only in the heads' offsets. In `grouped-mean` each head attends in the one
    branch of its group, and the sum over the branches is divided by their number: out is the branch's own output
    divided by it, and lse the branch's own, undivided.

    Returns out (batch, n_q, heads, value_dim) and lse (batch, heads, n_q), float64. Raises as `branches`,
    `branch_masks` and `attention` do, and ValueError for a sink in another dialect than `longnet`.
    """
    query, key, value = query_key_value(query, key, value)
    masks, terms = _masks_and_terms(query, key, segment_lengths, dilation_rates, options)
    out, lse = attention(query, key, value, masks.sum(axis=0, dtype=np.int64), options.get("scale"), **terms)
    return (out / len(masks) if options.get("dialect") == "grouped-mean" else out), lse


def dilated_attention_gradients(
    query: ArrayLike,
    key: ArrayLike,
    value: ArrayLike,
    grad_out: ArrayLike,
    *,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    **options: Unpack[Options],
) -> Gradients | GradientsWithSink:
    """The gradients of sum(out * grad_out) that the dialect's backward pass returns.

        dq, dk, dv = dilated_attention_gradients(
            query, key, value, grad_out, segment_lengths=[4, 8], dilation_rates=[1, 2], is_causal=True
        )

    Exact in `longnet` and `grouped-mean`. `torchscale` holds the branch weights constant: out_i = sum_b w_b,i o_b,i
    with w_b,i = exp(lse_b,i - lse_i) detached, so that what reaches branch b is w_b,i grad_out_i. Arguments and errors
    as in `dilated_attention`; grad_out has the shape of out. With a sink its gradient is the fourth.
    """
    query, key, value = query_key_value(query, key, value)
    grad_out = like_out(grad_out, query, value)
    masks, terms = _masks_and_terms(query, key, segment_lengths, dilation_rates, options)
    scale, dialect = options.get("scale"), options.get("dialect")
    if dialect == "torchscale":
        return _detached_gradients(query, key, value, masks, grad_out, scale, terms)
    gradients = attention_gradients(query, key, value, masks.sum(axis=0, dtype=np.int64), grad_out, scale, **terms)
    if dialect == "grouped-mean":
        return Gradients(*(gradient / len(masks) for gradient in gradients))
    return gradients


def check_options(options: Options) -> None:
    """Raise TypeError for an unknown option, ValueError for a sink in another dialect than `longnet`."""
    if unknown := sorted(options.keys() - Options.__annotations__.keys()):
        known = ", ".join(Options.__annotations__)
        raise TypeError(f"there is no option {', '.join(map(repr, unknown))}; the options are {known}")
    dialect = options.get("dialect", "longnet")
    if options.get("sink") is not None and dialect != "longnet":
        raise ValueError(f"sink is given in the dialect {dialect!r}; only 'longnet' has one")


def _masks_and_terms(
    query: Floats, key: Floats, segment_lengths: Sequence[int], dilation_rates: Sequence[int], options: Options
) -> tuple[NDArray[np.bool_], dict[str, Any]]:
    """The masks of the branches, and the extra terms of scores and denominators."""
    check_options(options)
    n_q, n_k, heads = query.shape[1], key.shape[1], query.shape[2]
    documents = options.get("document_lengths"), options.get("query_lengths")
    masks = branch_masks(
        n_k,
        heads,
        branches(segment_lengths, dilation_rates),
        options.get("is_causal", False),
        options.get("dialect", "longnet"),
        query_length=n_q,
        document_lengths=documents[0],
        query_lengths=documents[1],
        window=options.get("window"),
        mask=options.get("mask"),
    )
    queries, keys = rows(n_q, n_k, *documents)
    terms: dict[str, Any] = {name: options.get(name) for name in ("softcap", "slopes", "sink")}
    return masks, terms | {"positions": (queries.position, keys.position)}


@np.errstate(all="ignore")
def _detached_gradients(
    query: Floats,
    key: Floats,
    value: Floats,
    masks: NDArray[np.bool_],
    grad_out: Floats,
    scale: float | None,
    terms: dict[str, Any],
) -> Gradients:
    _, lse = weights(query, key, masks.sum(axis=0), scale, **terms)
    of_branches = []
    for mask in masks:
        _, branch_lse = weights(query, key, mask, scale, **terms)
        # A branch in which query i sees nothing has no weight, also where no branch has any: -inf - -inf is NaN.
        w = np.where(np.isneginf(branch_lse), 0.0, np.exp(branch_lse - lse))
        branch_grad_out = w.swapaxes(1, 2)[..., None] * grad_out
        of_branches.append(attention_gradients(query, key, value, mask, branch_grad_out, scale, **terms))
    return Gradients(*(np.sum(shares, axis=0) for shares in zip(*of_branches, strict=True)))
