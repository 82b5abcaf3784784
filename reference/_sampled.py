"""The exact answer for some queries and some keys of a sequence of any length, from the index sets alone."""

from collections.abc import Sequence
from typing import NamedTuple, Unpack

import numpy as np
from numpy.typing import ArrayLike

from attention_gate.reference._arguments import Shaped, ascending, sources_agree
from attention_gate.reference._attention import Floats
from attention_gate.reference._branches import branches
from attention_gate.reference._dilated import Options, check_options
from attention_gate.reference._passes import Head, RowSource, Work, weight_of
from attention_gate.reference._tiles import Indices
from attention_gate.reference._visibility import Sight, sight_of


class Sampled(NamedTuple):
    """The results for the queries and keys that were asked for, float64.

    out (batch, queries, heads, value_dim) and lse (batch, heads, queries) of the chosen queries, query their gradient;
    key (batch, keys, kv_heads, head_dim) and value the gradients of the chosen keys. sink (batch, heads, queries) is
    what each chosen query adds to the gradient of the sink, zero without one.
    """

    out: Floats
    lse: Floats
    query: Floats
    key: Floats
    value: Floats
    sink: Floats


@np.errstate(all="ignore")
def sampled_attention(
    query: RowSource,
    key: RowSource,
    value: RowSource,
    grad_out: RowSource,
    *,
    queries: ArrayLike,
    keys: ArrayLike,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    **options: Unpack[Options],
) -> Sampled:
    """What `dilated_attention` and its gradients are at some rows: out, lse and dQ of queries, dK and dV of keys.

        at = sampled_attention(
            query, key, value, grad_out, queries=[0, 6], keys=[3], segment_lengths=[4, 8], dilation_rates=[1, 2]
        )

    query, key, value and grad_out are read in pieces: see `RowSource`. queries and keys are ascending row indices
    without repetition. The other arguments and errors are those of `dilated_attention_gradients`.

    A query costs as much as it sees, sum w / r over the branches, and a key as much as the queries that see it cost
    together: its gradient needs their lse and D = dO . out, and nothing more. In memory are tiles, and the outputs of
    the queries that count.

    Equal to the dense answer within rounding. A row's softmax runs over the keys that it sees, so leaving out the
    others leaves out zeros; a softmax over the union of tiles is that of each tile, weighted by exp(lse_tile - lse),
    with weights at most 1; and with lse and D known every pair adds to the gradients by itself. What differs is the
    order of the sums, so that each result is off by at most some (terms + tiles) u times the sum of the terms'
    magnitudes, u = 2^-53, on either side.
    """
    sources_agree(query, key, value, grad_out)
    work = Work(query, key, value, grad_out, _sight(query, key, segment_lengths, dilation_rates, options), options)
    wanted, chosen = ascending("queries", queries, query.shape[1]), ascending("keys", keys, key.shape[1])
    heads = [work.head(head, wanted, chosen) for head in range(query.shape[2])]
    of_outputs, of_queries, of_keys = work.every_pass(heads, wanted, chosen)
    work.attend(heads, of_outputs)
    shapes = {name: source.shape for name, source in work.sources.items()}
    batch, _, kv_heads, head_dim = shapes["key"]
    dQ = np.zeros((batch, len(wanted), len(heads), head_dim))
    for index, head, at, tile in of_queries:
        places = np.searchsorted(wanted, head.rows[at])
        dQ[:, places, head.number] += work.part_of_gradients(index, head, at, tile).query[:, :, 0]
    dK, dV = (np.zeros((batch, len(chosen), kv_heads, dim)) for dim in (head_dim, shapes["value"][3]))
    for index, head, at, tile in of_keys:
        places, part = np.searchsorted(chosen, tile), work.part_of_gradients(index, head, at, tile)
        dK[:, places, head.number // work.group] += part.key[:, :, 0]
        dV[:, places, head.number // work.group] += part.value[:, :, 0]
    share = 1.0 / len(work.sight.branches) if work.dialect == "grouped-mean" else 1.0
    out, lse, sink = _outputs(work, heads, wanted)
    return Sampled(out * share, lse, dQ * share, dK * share, dV * share, sink)


def sampled_scores(
    query_shape: Sequence[int],
    key_shape: Sequence[int],
    *,
    queries: ArrayLike,
    keys: ArrayLike,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    **options: Unpack[Options],
) -> int:
    """How many scores `sampled_attention` computes for these rows: its time is proportional to them.

        sampled_scores((1, 7, 2, 3), (1, 7, 1, 3), queries=[0, 6], keys=[3], segment_lengths=[4], dilation_rates=[1])

    Of all heads and batch rows, the backward pass counted as well. Arguments as in `sampled_attention`, without the
    tensors, of which the shapes suffice.
    """
    query, key = (np.broadcast_to(0.0, tuple(shape)) for shape in (query_shape, key_shape))
    work = Work(query, key, key, query, _sight(query, key, segment_lengths, dilation_rates, options), options)
    wanted, chosen = ascending("queries", queries, query.shape[1]), ascending("keys", keys, key.shape[1])
    heads = [work.head(head, wanted, chosen) for head in range(query.shape[2])]
    each = work.every_pass(heads, wanted, chosen)
    return query.shape[0] * sum(len(at) * len(tile) for one in each for _, _, at, tile in one)


def _sight(
    query: Shaped, key: Shaped, segment_lengths: Sequence[int], dilation_rates: Sequence[int], options: Options
) -> Sight:
    check_options(options)
    return sight_of(
        key.shape[1],
        query.shape[2],
        branches(segment_lengths, dilation_rates),
        options.get("is_causal", False),
        options.get("dialect", "longnet"),
        query_length=query.shape[1],
        document_lengths=options.get("document_lengths"),
        query_lengths=options.get("query_lengths"),
        window=options.get("window"),
        mask=options.get("mask"),
    )


def _outputs(work: Work, heads: Sequence[Head], wanted: Indices) -> tuple[Floats, Floats, Floats]:
    """out, lse and the parts of the sink's gradient, of the wanted queries of all heads."""
    outs, lses, sinks = [], [], []
    for head in heads:
        at = np.searchsorted(head.rows, wanted)
        of_parts = head.lse[:, :, at]
        lse = np.logaddexp.reduce(of_parts)
        out = (weight_of(of_parts, lse)[..., None] * head.out[:, :, at]).sum(axis=0)
        D = (work.read("grad_out", wanted, head.number)[:, :, 0] * out).sum(axis=-1)
        sink = np.broadcast_to(work.sink[head.number], lse.shape)
        outs.append(out)
        lses.append(lse)
        sinks.append(-weight_of(sink, lse) * D)
    return np.stack(outs, axis=2), np.stack(lses, axis=1), np.stack(sinks, axis=1)
