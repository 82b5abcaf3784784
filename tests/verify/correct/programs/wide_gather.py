"""Dilated attention over a plain all_gather. Half types are widened to float32 before they are sent, so that all that
is exchanged, the summed gradients included, is float32 (or float64) and the result is rounded once.

Limits: every rank holds all keys and values, and the gradient of all of them; tried on CPU with gloo only.
"""
import zlib

import torch
import torch.distributed as dist


class WideGather(torch.autograd.Function):
    """(batch, local, heads, dim) of any float type -> (batch, n, heads, dim), wide."""

    @staticmethod
    def forward(ctx, x, lengths, group):
        ctx.dtype, ctx.lengths, ctx.group = x.dtype, lengths, group
        wide = x.double() if x.dtype == torch.float64 else x.float()
        padded = wide.new_zeros(x.shape[0], max(lengths), *x.shape[2:])
        padded[:, : x.shape[1]] = wide
        parts = [torch.empty_like(padded) for _ in lengths]
        if padded.numel():
            dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:, :length] for part, length in zip(parts, lengths)], dim=1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        total = grad.clone(memory_format=torch.contiguous_format)
        if total.numel():
            dist.all_reduce(total, op=dist.ReduceOp.SUM, group=ctx.group)
        mine = total.split(ctx.lengths, dim=1)[dist.get_rank(ctx.group)]
        return mine.to(ctx.dtype), None, None


def branch_visibility(rows, columns, head_offsets, w, is_causal):
    """(heads, rows, columns) booleans of one branch; head_offsets is a pair (h mod r, r)."""
    offset, r = head_offsets
    same_segment = torch.floor_divide(rows, w).unsqueeze(1) == torch.floor_divide(columns, w)
    allowed = same_segment & (columns <= rows.unsqueeze(1)) if is_causal else same_segment
    row_in = torch.remainder(torch.remainder(rows, w), r) == offset
    column_in = torch.remainder(torch.remainder(columns, w), r) == offset
    return row_in.unsqueeze(2) * column_in.unsqueeze(1) * allowed


def attention(q, k, v, rows, columns, branches, is_causal, scale):
    """All wide. One group of query heads per kv head, without copying keys."""
    heads, kv_heads = q.size(2), k.size(2)
    count = 0
    head = torch.arange(heads, device=q.device).unsqueeze(1)
    for w, r in branches:
        count = count + branch_visibility(rows, columns, (head % r, r), w, is_causal).to(q.dtype)
    count = count.unflatten(0, (kv_heads, heads // kv_heads))
    q = q.unflatten(2, (kv_heads, heads // kv_heads))
    scores = torch.einsum("blgud,bmgd->bgulm", q, k).mul(scale)
    hidden = count.eq(0)
    shift = scores.detach().masked_fill(hidden, -torch.inf).amax(dim=-1, keepdim=True).nan_to_num(neginf=0.0)
    weight = torch.exp((scores - shift).masked_fill(hidden, -torch.inf)) * count
    numerator = torch.einsum("bgulm,bmge->blgue", weight, v).flatten(2, 3)
    denominator = weight.sum(-1).permute(0, 3, 1, 2).flatten(2, 3).unsqueeze(-1)
    blind = denominator == 0
    return numerator / denominator.masked_fill(blind, 1)


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None):
    group = dist.group.WORLD if group is None else group
    verify(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group)
    query, key, value = same_gradients_everywhere([query, key, value], group)
    world, me = dist.get_world_size(group), dist.get_rank(group)
    n = query.size(1) * world if sequence_length is None else int(sequence_length)
    positions = torch.arange(n, device=query.device)
    shards = positions.tensor_split(world)
    lengths = [shard.numel() for shard in shards]

    # one exchange for both, so that there is one in the backward as well
    key_dim = key.size(3)
    both = WideGather.apply(torch.cat((key, value), dim=3), lengths, group)
    k, v = both[..., :key_dim], both[..., key_dim:]
    q = query.to(both.dtype)
    if n == 0:
        empty = v.repeat_interleave(q.size(2) // v.size(2), dim=2)
        return torch.cat((q[..., :0], empty), dim=3).to(query.dtype)  # no rows, but differentiable
    out = attention(q, k, v, shards[me], positions, list(zip(segment_lengths, dilation_rates)), is_causal,
                    key_dim ** -0.5 if scale is None else float(scale))
    return out.to(query.dtype)


def same_gradients_everywhere(inputs, group):
    """If a rank wants the gradient of an input, all ranks must take part in its backward."""
    wanted = torch.tensor([torch.is_grad_enabled() and x.requires_grad for x in inputs], dtype=torch.int32,
                          device=inputs[0].device)
    dist.all_reduce(wanted, op=dist.ReduceOp.MAX, group=group)
    return [x if x.requires_grad or not want else x.detach().requires_grad_()
            for x, want in zip(inputs, wanted.tolist())]


def verify(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group):
    """The ranks compare a vector of numbers: its minimum and maximum over the ranks must be the same."""
    error = None
    vector = [1] + [0] * 9
    try:
        local_checks(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group)
        world = dist.get_world_size(group)
        vector = [0, query.size(0), query.size(2), key.size(2), query.size(3), value.size(3),
                  -1 if sequence_length is None else sequence_length,
                  query.size(1) * world if sequence_length is None else sequence_length,
                  zlib.crc32(repr((list(segment_lengths), list(dilation_rates), is_causal)).encode()),
                  zlib.crc32(repr((query.dtype, None if scale is None else float(scale))).encode())]
    except (TypeError, ValueError) as caught:
        error = caught
    device = query.device if isinstance(query, torch.Tensor) else "cpu"
    low = torch.tensor(vector, dtype=torch.int64, device=device)
    high = low.clone()
    dist.all_reduce(low, op=dist.ReduceOp.MIN, group=group)
    dist.all_reduce(high, op=dist.ReduceOp.MAX, group=group)
    if error is not None:
        raise error
    if high[0] > 0:
        raise ValueError("another rank was given bad arguments")
    if not torch.equal(low, high):
        raise ValueError("the ranks were not given the same arguments")


def local_checks(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group):
    def require(condition, message, kind=ValueError):
        if not condition:
            raise kind(message)

    def is_int(x):
        return isinstance(x, int) and not isinstance(x, bool)

    for x in (query, key, value):
        require(isinstance(x, torch.Tensor), "query, key and value must be tensors", TypeError)
        require(x.is_floating_point(), "query, key and value must be floating point", TypeError)
        require(x.dim() == 4, "query, key and value must have 4 dimensions")
        require(x.dtype == query.dtype, "query, key and value must have one dtype", TypeError)
        require(x.device == query.device, "query, key and value must have one device")
        require(x.size(0) == query.size(0), "query, key and value must have one batch size")
        require(x.size(1) == query.size(1), "query, key and value must have one length")
    require(query.size(3) == key.size(3) > 0, "query and key must have one positive head_dim")
    require(key.size(2) == value.size(2) > 0, "key and value must have the same heads, at least one")
    require(query.size(2) % key.size(2) == 0, "heads must be a multiple of kv_heads")
    require(isinstance(segment_lengths, (list, tuple)), "segment_lengths must be a list or tuple", TypeError)
    require(isinstance(dilation_rates, (list, tuple)), "dilation_rates must be a list or tuple", TypeError)
    require(len(segment_lengths) == len(dilation_rates), "segment_lengths and dilation_rates must be equally long")
    require(len(segment_lengths) > 0, "there must be a branch")
    for x in (*segment_lengths, *dilation_rates):
        require(is_int(x), "segment_lengths and dilation_rates must hold ints", TypeError)
        require(x >= 1, "segment_lengths and dilation_rates must be positive")
    require(isinstance(is_causal, bool), "is_causal must be a bool", TypeError)
    if scale is not None:
        require(isinstance(scale, float) or is_int(scale), "scale must be a number", TypeError)
        require(-float("inf") < scale < float("inf"), "scale must be finite")
    if sequence_length is not None:
        require(is_int(sequence_length), "sequence_length must be an int", TypeError)
        require(sequence_length >= 0, "sequence_length must not be negative")
        quotient, remainder = divmod(sequence_length, dist.get_world_size(group))
        require(query.size(1) == quotient + int(dist.get_rank(group) < remainder),
                "this is not the rank's share of sequence_length")
