"""Dilated attention with activation checkpointing: all ranks exchange their keys and values directly, then each block
of keys goes through torch.utils.checkpoint, which keeps just the running (numerator, denominator, maximum) and computes
the scores anew in the backward. Nothing that is checkpointed communicates.

Limits: every rank holds all keys and values, and one running numerator per block of keys; tried on CPU with gloo only.
"""
import math

import torch
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

BLOCK = 16


def swap_with_all(outgoing, incoming, group):
    """Send outgoing[r] to rank r and fill incoming[r] from it; both are dicts without this rank itself."""
    ops = [dist.P2POp(dist.isend, x, dist.get_global_rank(group, r), group) for r, x in outgoing.items() if x.numel()]
    ops += [dist.P2POp(dist.irecv, x, dist.get_global_rank(group, r), group) for r, x in incoming.items() if x.numel()]
    if ops:
        for work in dist.batch_isend_irecv(ops):
            work.wait()


class Exchange(torch.autograd.Function):
    """(batch, local, heads, dim) -> (batch, n, heads, dim). The gradient of a shard is the sum of what all ranks say."""

    @staticmethod
    def forward(ctx, shard, lengths, group):
        ctx.lengths, ctx.group = lengths, group
        rank = dist.get_rank(group)
        shard = shard.contiguous()
        others = [r for r in range(len(lengths)) if r != rank]
        received = {r: shard.new_empty(shard.shape[0], lengths[r], *shard.shape[2:]) for r in others}
        swap_with_all({r: shard for r in others}, received, group)
        received[rank] = shard
        return torch.cat([received[r] for r in range(len(lengths))], dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        rank = dist.get_rank(ctx.group)
        parts = dict(enumerate(part.contiguous() for part in grad.split(ctx.lengths, dim=1)))
        mine = parts.pop(rank)
        received = {r: torch.empty_like(mine) for r in parts}
        swap_with_all(parts, received, ctx.group)
        for r in sorted(received):
            mine = mine + received[r]
        return mine, None, None


def count_table(q_positions, k_positions, heads, branches, is_causal):
    """How often each query sees each key: (heads, queries, keys)."""
    rows = []
    for head in range(heads):
        row = torch.zeros(len(q_positions), len(k_positions), dtype=torch.int64, device=q_positions.device)
        for w, r in branches:
            # unselected positions get labels that match nothing
            q_label = torch.where(q_positions % w % r == head % r, q_positions // w, -1)
            k_label = torch.where(k_positions % w % r == head % r, k_positions // w, -2)
            row += q_label.unsqueeze(1) == k_label.unsqueeze(0)
        rows.append(row)
    table = torch.stack(rows) if rows else q_positions.new_zeros(0, len(q_positions), len(k_positions))
    return table * (k_positions <= q_positions.unsqueeze(1)) if is_causal else table


def absorb(numerator, denominator, maximum, q, k, v, table, scale):
    """Add one block of keys to the running softmax. The maximum is a constant to autograd: it cancels in the end."""
    repeats = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
    scores = torch.matmul(q, k.transpose(-1, -2)) * scale
    lowest = torch.finfo(scores.dtype).min
    masked = scores.masked_fill(table == 0, lowest)
    new_maximum = torch.maximum(maximum, masked.detach().amax(-1, keepdim=True))
    weights = torch.where(table > 0, table * torch.exp(masked - new_maximum), 0)
    keep = torch.exp(maximum - new_maximum)
    return (numerator * keep + torch.matmul(weights, v),
            denominator * keep + weights.sum(-1, keepdim=True),
            new_maximum)


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None):
    group = group or dist.group.WORLD
    size, rank = dist.get_world_size(group), dist.get_rank(group)

    # --- arguments: everybody tells everybody, then all raise or none does
    problem = find_problem(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length,
                           size, rank)
    if problem is None:
        description = {
            "batch": query.size(0), "heads": query.size(2), "kv_heads": key.size(2), "head_dim": key.size(3),
            "value_dim": value.size(3), "dtype": query.dtype, "segment_lengths": list(segment_lengths),
            "dilation_rates": list(dilation_rates), "is_causal": is_causal, "scale": scale,
            "sequence_length": sequence_length, "n": query.size(1) * size if sequence_length is None else sequence_length,
        }
        grads = {name: x.requires_grad and torch.is_grad_enabled()
                 for name, x in [("query", query), ("key", key), ("value", value)]}
    else:
        description = grads = None
    said = [None] * size
    dist.all_gather_object(said, (problem, description, grads), group=group)
    for r in range(size):
        if said[r][0] is not None:
            raise said[r][0]
    for r in range(1, size):
        differing = [name for name in description if said[r][1][name] != said[0][1][name]]
        if differing:
            raise ValueError(f"ranks 0 and {r} of the group have different {', '.join(differing)}")

    # --- a gradient that is wanted on one rank takes a backward on all
    def joined(name, x):
        return x.detach().requires_grad_() if not x.requires_grad and any(g[name] for _, _, g in said) else x

    query, key, value = joined("query", query), joined("key", key), joined("value", value)

    # --- exchange
    n, head_dim = description["n"], description["head_dim"]
    dtype = torch.promote_types(query.dtype, torch.float32)
    positions = torch.arange(n, device=query.device)
    shards = positions.tensor_split(size)
    kv = Exchange.apply(torch.cat([key, value], dim=3).to(dtype), [len(shard) for shard in shards], group)
    q, kv = query.to(dtype).transpose(1, 2), kv.transpose(1, 2)

    # --- attention, block by block; the sums over nothing keep an empty sequence differentiable
    numerator = q.new_zeros(*q.shape[:3], value.size(3)) + q[..., :0].sum() + kv[..., :0].sum()
    denominator = q.new_zeros(*q.shape[:3], 1)
    maximum = torch.full_like(denominator, torch.finfo(dtype).min)
    branches = list(zip(segment_lengths, dilation_rates))
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    for start in range(0, n, BLOCK):
        table = count_table(shards[rank], positions[start:start + BLOCK], q.size(1), branches, is_causal)
        block = kv[:, :, start:start + BLOCK]
        numerator, denominator, maximum = checkpoint(
            absorb, numerator, denominator, maximum, q, block[..., :head_dim], block[..., head_dim:], table, scale,
            use_reentrant=False, preserve_rng_state=False)
    out = numerator / torch.where(denominator > 0, denominator, 1)
    return out.transpose(1, 2).to(query.dtype)


def find_problem(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, size, rank):
    """The exception to raise, or None."""
    where = f" (on rank {rank} of the group)"
    named = [("query", query), ("key", key), ("value", value)]
    for name, x in named:
        if not isinstance(x, torch.Tensor):
            return TypeError(f"{name} is not a tensor" + where)
        if not x.is_floating_point():
            return TypeError(f"{name} is not floating point" + where)
        if x.dim() != 4:
            return ValueError(f"{name} does not have the dimensions (batch, length, heads, dim)" + where)
    for name, x in named[1:]:
        if x.dtype != query.dtype or x.device != query.device:
            return ValueError(f"{name} has not the dtype and device of query" + where)
        if x.size(0) != query.size(0) or x.size(1) != query.size(1):
            return ValueError(f"{name} has not the batch and length of query" + where)
    if key.size(2) != value.size(2) or key.size(2) == 0 or query.size(2) % key.size(2) > 0:
        return ValueError("the heads of query, key and value do not fit" + where)
    if key.size(3) != query.size(3) or key.size(3) == 0:
        return ValueError("query and key have no common head_dim" + where)
    for name, numbers in [("segment_lengths", segment_lengths), ("dilation_rates", dilation_rates)]:
        if not isinstance(numbers, (list, tuple)):
            return TypeError(f"{name} is not a list or a tuple" + where)
        for number in numbers:
            if type(number) is not int:
                return TypeError(f"{number!r} in {name} is not an int" + where)
            if number <= 0:
                return ValueError(f"{number!r} in {name} is not positive" + where)
        if not numbers:
            return ValueError(f"{name} is empty" + where)
    if len(segment_lengths) != len(dilation_rates):
        return ValueError("segment_lengths and dilation_rates are not of one length" + where)
    if not isinstance(is_causal, bool):
        return TypeError("is_causal is not a bool" + where)
    if scale is not None:
        if type(scale) not in (int, float):
            return TypeError("scale is not a number" + where)
        if not math.isfinite(scale):
            return ValueError("scale is not finite" + where)
    if sequence_length is not None:
        if type(sequence_length) is not int:
            return TypeError("sequence_length is not an int" + where)
        if sequence_length < 0:
            return ValueError("sequence_length is negative" + where)
        if query.size(1) != sequence_length // size + int(rank < sequence_length % size):
            return ValueError("the length of query is not this rank's share of sequence_length" + where)
    return None
