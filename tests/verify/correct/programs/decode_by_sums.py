"""Decoding against sharded keys, merged by one reduce_scatter of weighted parts.

Every rank has all queries and its own keys and values. It computes the unnormalised output of its keys beside a row
maximum that all ranks agree on. The last column of each part is its share of the softmax denominator, so numerator and
denominator travel together: reduce_scatter sums them and leaves each rank a slice of the rows, which it normalises.
all_gather hands the finished slices, output and lse, back to everyone.
"""

import torch
import torch.distributed as dist


def shard_start(total, rank, world_size):
    """The first row of a rank, as torch.tensor_split cuts."""
    small, longer = divmod(total, world_size)
    return rank * small + min(rank, longer)


def own_scores(query, key, scale, is_causal, first_key, total_keys):
    """Scores (batch, kv_heads, heads per kv head, queries, own keys); what is hidden is -inf."""
    queries, keys = query.shape[1], key.shape[1]
    grouped = query.unflatten(2, (key.shape[2], -1))
    scores = torch.einsum("bikgd,bjkd->bkgij", grouped, key) * scale
    if is_causal:
        stands = torch.arange(queries, device=query.device) + total_keys - queries
        position = torch.arange(keys, device=query.device) + first_key
        scores = scores.masked_fill(position > stands[:, None], -torch.inf)
    return scores


def row_maximum(scores, group):
    """The maximum of each row over all ranks; 0 where no rank sees a key."""
    top = scores.new_full(scores.shape[:-1], -torch.inf)
    if scores.shape[-1]:
        top = scores.amax(-1)
    dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
    return top.masked_fill(top == -torch.inf, 0.0)


def merge(parts, top, group):
    """Normalised rows with their lse in the last column, from each rank's (rows, value_dim + 1) and the maxima (rows,)."""
    world_size, rank = dist.get_world_size(group), dist.get_rank(group)
    rows, width = parts.shape
    slice_rows = -(-rows // world_size)
    padded = parts.new_zeros(world_size * slice_rows, width)
    padded[:rows] = parts
    mine = parts.new_empty(slice_rows, width)
    dist.reduce_scatter_tensor(mine, padded, group=group)

    tops = top.new_zeros(world_size * slice_rows)
    tops[:rows] = top
    denominator = mine[:, -1]
    mine_top = tops[rank * slice_rows : (rank + 1) * slice_rows]
    lse = denominator.log() + mine_top
    out = mine[:, :-1] / denominator.masked_fill(denominator == 0, 1.0)[:, None]
    whole = torch.empty_like(padded)
    dist.all_gather_into_tensor(whole, torch.cat((out, lse[:, None]), dim=1), group=group)
    return whole[:rows]


@torch.no_grad()
def attend(query, key, value, *, is_causal=False, scale=None, sequence_length=None, group=None, return_lse=False, **_):
    world_size, rank = dist.get_world_size(group), dist.get_rank(group)
    batch, queries, heads, head_dim = query.shape
    total_keys = world_size * key.shape[1] if sequence_length is None else sequence_length
    scale = head_dim**-0.5 if scale is None else scale
    wide = torch.promote_types(query.dtype, torch.float32)

    with torch.autocast(query.device.type, enabled=False):
        first_key = shard_start(total_keys, rank, world_size)
        scores = own_scores(query.to(wide), key.to(wide), scale, is_causal, first_key, total_keys)
        top = row_maximum(scores, group)
        weights = (scores - top[..., None]).exp()
        weighted = torch.einsum("bkgij,bjkd->bkgid", weights, value.to(wide))
        parts = torch.cat((weighted, weights.sum(-1, keepdim=True)), dim=-1)
        whole = merge(parts.flatten(0, 3), top.flatten(), group).view(batch, heads, queries, value.shape[-1] + 1)

    out = whole[..., :-1].transpose(1, 2).to(query.dtype).contiguous()
    return (out, whole[..., -1].contiguous()) if return_lse else out
