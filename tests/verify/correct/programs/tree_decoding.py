"""Decoding over shards of keys by two reductions: the largest score of all ranks, then numerators and denominators.

Every rank has all queries. Rows of keys that every rank has are added on the first rank alone, so that they count once.
Limits: dense attention, forward only; keys in blocks of `interleave` rows.
"""
import torch
import torch.distributed as dist


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None, return_lse=False, query_length=None, interleave=1, window=None, softcap=None, slopes=None,
           sink=None, joint_key=None, joint_value=None, joint="front"):
    alone = not dist.is_initialized()
    rank, size = (0, 1) if alone else (dist.get_rank(group), dist.get_world_size(group))
    acc = torch.float64 if query.dtype == torch.float64 else torch.float32
    local = torch.arange(key.shape[1])
    place = (torch.div(local, interleave, rounding_mode="floor") * size + rank) * interleave + local % interleave
    total = sequence_length if sequence_length is not None else size * key.shape[1]
    extra = joint_key.shape[1] if joint_key is not None else 0
    if extra and joint == "front":
        place = place + extra
    if extra and rank == 0:
        key, value = torch.cat([joint_key, key], 1), torch.cat([joint_value, value], 1)
        place = torch.cat([torch.arange(extra) + (0 if joint == "front" else total), place])
    n_q, heads = query.shape[1], query.shape[2]
    x = torch.arange(total + extra - n_q, total + extra)[:, None]

    repeat = heads // key.shape[2]
    k, v = (t.to(acc).repeat_interleave(repeat, 2).permute(0, 2, 1, 3) for t in (key, value))
    s = query.to(acc).permute(0, 2, 1, 3) @ k.transpose(2, 3)
    s = s * (scale if scale is not None else query.shape[3] ** -0.5)
    if softcap is not None:
        s = softcap * torch.tanh(s / softcap)
    if slopes is not None:
        s = s - torch.tensor(slopes, dtype=acc).view(-1, 1, 1) * (x - place).abs()
    hidden = torch.zeros(n_q, len(place), dtype=torch.bool)
    if is_causal:
        hidden |= place > x
    left, right = window if window is not None else (None, None)
    if left is not None:
        hidden |= place < x - left
    if right is not None:
        hidden |= place > x + right
    s = s.masked_fill(hidden, -torch.inf)
    if sink is not None and rank == 0:
        column = sink.to(acc).view(1, -1, 1, 1).expand(s.shape[0], -1, n_q, 1)
        s = torch.cat([s, column], 3)
        v = torch.cat([v, v.new_zeros(*v.shape[:2], 1, v.shape[3])], 2)

    top = s.amax(3) if s.shape[3] else s.new_full(s.shape[:3], -torch.inf)
    if size > 1:
        dist.all_reduce(top, op=dist.ReduceOp.MAX, group=group)
    safe = torch.where(top.isneginf(), torch.zeros_like(top), top)
    weights = torch.exp(s - safe.unsqueeze(3))
    sums = torch.cat([weights @ v, weights.sum(3, keepdim=True)], 3)
    if size > 1:
        dist.all_reduce(sums, group=group)
    denominator = sums[..., -1]
    out = sums[..., :-1] / torch.where(denominator > 0, denominator, torch.ones_like(denominator)).unsqueeze(3)
    out = out.permute(0, 2, 1, 3).to(query.dtype)
    return (out, safe + denominator.log()) if return_lse else out
