"""Attentions that take their own share of the heads or of the rows for something else."""

from __future__ import annotations

import numpy as np
import torch

import impls.collective
from attention_gate import Target
from attention_gate.verify.target.layouts import contiguous, zigzag
from tests.verify.targets import _gathered, _rank_and_size


def heads_by_a_local_ratio(query, key, value, **options):
    """Each rank's part of the query heads reads the kv heads by the ratio of that part to all kv heads."""
    _, size = _rank_and_size(options.get("group"))
    heads, kv_heads = query.shape[2], key.shape[2]
    if heads % size:
        return impls.collective.attend(query, key, value, **options)
    own = heads // size
    chosen = torch.arange(heads) % own // max(1, own // kv_heads) % kv_heads
    return impls.collective.attend(query, key[:, :, chosen], value[:, :, chosen], **options)


def zigzag_cut_in_the_middle(query, key, value, *, is_causal=False, sequence_length=None, group=None, **_):
    """Dense attention of zigzag shards, each taken to have two chunks of equal length."""
    rank, size = _rank_and_size(group)
    length = sequence_length or query.shape[1] * size

    def taken(shard):
        rows, middle = len(zigzag(shard, size, length)), len(zigzag(shard, size, length)) // 2
        starts = [contiguous(chunk, 2 * size, length)[:1] for chunk in (shard, 2 * size - 1 - shard)]
        first, second = (int(start[0]) if len(start) else 0 for start in starts)
        return np.concatenate([first + np.arange(middle), second + np.arange(rows - middle)])

    owned = torch.from_numpy(zigzag(rank, size, length))
    keys, values = (_gathered(x, owned, length, group) for x in (key, value))
    at = torch.empty(length, dtype=torch.int64)
    for shard in range(size):
        at[torch.from_numpy(zigzag(shard, size, length))] = torch.from_numpy(taken(shard))
    scores = query.shape[-1] ** -0.5 * torch.einsum("bihd,bjhd->bhij", query.detach(), keys)
    if is_causal:
        scores = scores.masked_fill(at > torch.from_numpy(taken(rank))[:, None], -torch.inf)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), values)


local_ratio = Target(attend=heads_by_a_local_ratio)
cut_zigzag = Target(
    attend=zigzag_cut_in_the_middle,
    layout="zigzag",
    branches="dense",
    gradients=False,
    grouped_query=False,
    subgroups=False,
    scales=False,
    refusals=False,
)
