"""Dilated ring attention with the partial results merged in log space by torch.logaddexp; autograd walks back through
the loop, and a Function turns the ring round for the gradients.

Nothing is ever -inf here: "sees nothing" is a very negative finite score, so that logaddexp and its derivative stay
finite; the weights of unseen keys are set to zero, so a row that sees nothing comes out as zero.

Limits: first derivatives only; tried on CPU with gloo only.
"""
import hashlib
import numbers

import torch
import torch.distributed as dist


class Rotate(torch.autograd.Function):
    """(k, v) of this rank -> (k, v) of the rank before it."""

    @staticmethod
    def forward(ctx, k, v, length, group):
        ctx.length, ctx.group = k.shape[1], group
        return rotate((k, v), length, 1, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_k, grad_v):
        return (*rotate((grad_k, grad_v), ctx.length, -1, ctx.group), None, None)


def rotate(tensors, length, direction, group):
    me, world = dist.get_rank(group), dist.get_world_size(group)
    received, requests = [], []
    for tensor in tensors:
        tensor = tensor.contiguous()
        buffer = tensor.new_empty((tensor.shape[0], length, *tensor.shape[2:]))
        received.append(buffer)
        if tensor.numel():
            requests.append(dist.P2POp(dist.isend, tensor, group=group, group_peer=(me + direction) % world))
        if buffer.numel():
            requests.append(dist.P2POp(dist.irecv, buffer, group=group, group_peer=(me - direction) % world))
    if requests:
        [request.wait() for request in dist.batch_isend_irecv(requests)]
    return tuple(received)


def log_multiplicity(rows, columns, heads, branches, causal, dtype):
    """log M, shape (heads, rows, columns); log 0 = -inf."""
    offset = torch.arange(heads, device=rows.device).reshape(heads, 1)
    M = rows.new_zeros(heads, rows.numel(), columns.numel())
    for w, r in branches:
        rows_in = rows.remainder(w).remainder(r) == offset.remainder(r)
        columns_in = columns.remainder(w).remainder(r) == offset.remainder(r)
        same_segment = torch.eq(rows.div(w, rounding_mode="floor")[:, None],
                                columns.div(w, rounding_mode="floor")[None, :])
        M = M + (rows_in[:, :, None] & columns_in[:, None, :] & same_segment)
    if causal:
        M = M * (rows[:, None] >= columns[None, :])
    return M.to(dtype).log()


def partial(q, k, v, log_m, scale, floor):
    """Output and log-sum-exp over one block of keys; lse is `floor` or near it in rows that see none of them."""
    b, i, h, d = q.shape
    g = h // k.shape[2]
    q = q.reshape(b, i, h // g, g, d)
    s = torch.einsum("bikgd,bjkd->bkgij", q, k).flatten(1, 2) * scale
    visible = log_m > -torch.inf
    s = torch.where(visible, s + torch.where(visible, log_m, 0), floor)
    lse = s.logsumexp(dim=-1).clamp(min=floor)  # the clamp is for blocks without keys
    p = torch.where(visible, torch.softmax(s, dim=-1), 0).unflatten(1, (h // g, g))
    return torch.einsum("bkgij,bjke->bkgie", p, v).flatten(1, 2), lse


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None):
    group = group or dist.group.WORLD
    me, world = dist.get_rank(group), dist.get_world_size(group)
    branches, total, needed = check(query, key, value, segment_lengths, dilation_rates, is_causal, scale,
                                    sequence_length, group)
    # the same inputs must be differentiable on all ranks, or the backward rotations would wait for each other
    query, key, value = [x if x.requires_grad or not need else x.detach().requires_grad_()
                         for x, need in zip((query, key, value), needed)]
    if scale is None:
        scale = query.shape[-1] ** -0.5

    work = torch.float64 if query.dtype == torch.float64 else torch.float32
    floor = torch.finfo(work).min / 4
    q, k, v = query.to(work), key.to(work), value.to(work)
    shards = torch.tensor_split(torch.arange(total, device=q.device), world)

    out = lse = None
    for step in range(world):
        owner = (me - step) % world
        if step > 0:
            k, v = Rotate.apply(k, v, shards[owner].numel(), group)
        log_m = log_multiplicity(shards[me], shards[owner], q.shape[2], branches, is_causal, work)
        block_out, block_lse = partial(q, k, v, log_m, scale, floor)
        if lse is None:
            out, lse = block_out, block_lse
            continue
        merged = torch.logaddexp(lse, block_lse)
        out = out * (lse - merged).exp().unsqueeze(-1) + block_out * (block_lse - merged).exp().unsqueeze(-1)
        lse = merged
    return out.movedim(1, 2).to(query.dtype)


def check(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group):
    """Every rank sends (valid?, fingerprint of its arguments, which inputs need a gradient) to every other."""
    me, world = dist.get_rank(group), dist.get_world_size(group)
    device = query.device if isinstance(query, torch.Tensor) else torch.device("cpu")
    own_error, result = None, None
    note = torch.zeros(5, dtype=torch.int64, device=device)
    try:
        branches, total = validate(query, key, value, segment_lengths, dilation_rates, is_causal, scale,
                                   sequence_length, me, world)
        same = (query.shape[0], query.shape[2:], key.shape[2:], value.shape[2:], str(query.dtype), branches,
                bool(is_causal), None if scale is None else float(scale), sequence_length, total)
        digest = hashlib.sha256(repr(same).encode()).digest()
        note[0] = 1
        note[1] = int.from_bytes(digest[:8], "big", signed=True)
        for position, x in enumerate((query, key, value)):
            note[2 + position] = int(x.requires_grad and torch.is_grad_enabled())
        result = branches, total
    except (TypeError, ValueError) as error:
        own_error = error
    notes = [torch.empty_like(note) for _ in range(world)]
    dist.all_gather(notes, note, group=group)
    notes = torch.stack(notes).cpu()
    if own_error is not None:
        raise own_error
    bad = (notes[:, 0] == 0).nonzero().flatten().tolist()
    if bad:
        raise ValueError(f"ranks {bad} were given bad arguments")
    if (notes[:, 1] != notes[0, 1]).any():
        raise ValueError("not all ranks were given the same arguments")
    return *result, notes[:, 2:].any(dim=0).tolist()


def validate(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, me, world):
    def whole(x, what, least):
        if isinstance(x, bool) or not isinstance(x, numbers.Integral):
            raise TypeError(f"{what} must be a whole number: {x!r}")
        if x < least:
            raise ValueError(f"{what} must be at least {least}: {x!r}")
        return int(x)

    for what, x in (("query", query), ("key", key), ("value", value)):
        if not torch.is_tensor(x):
            raise TypeError(f"{what} is not a tensor")
        if not torch.is_floating_point(x):
            raise TypeError(f"{what} is not floating point")
        if x.ndim != 4:
            raise ValueError(f"{what} is not 4-dimensional")
        if x.dtype is not query.dtype:
            raise TypeError(f"{what} has another dtype than query")
        if x.device != query.device:
            raise ValueError(f"{what} is on another device than query")
        if x.shape[:2] != query.shape[:2]:
            raise ValueError(f"{what} has another batch or length than query")
    if query.shape[3] != key.shape[3] or query.shape[3] < 1:
        raise ValueError("query and key must have the same head_dim, at least 1")
    if key.shape[2] != value.shape[2]:
        raise ValueError("key and value must have the same number of heads")
    if key.shape[2] < 1 or query.shape[2] % key.shape[2]:
        raise ValueError("the heads of query must be a multiple of those of key")
    lengths = [whole(x, "a segment length", 1) for x in segment_lengths]
    rates = [whole(x, "a dilation rate", 1) for x in dilation_rates]
    if len(lengths) != len(rates) or len(lengths) == 0:
        raise ValueError("there must be as many segment lengths as dilation rates, and at least one")
    if not isinstance(is_causal, bool):
        raise TypeError("is_causal must be a bool")
    if scale is not None:
        if isinstance(scale, bool) or not isinstance(scale, numbers.Real):
            raise TypeError("scale must be a real number")
        if scale != scale or scale in (float("inf"), float("-inf")):
            raise ValueError("scale must be finite")
    if sequence_length is None:
        return list(zip(lengths, rates)), query.shape[1] * world
    total = whole(sequence_length, "sequence_length", 0)
    if query.shape[1] != (total + world - 1 - me) // world:
        raise ValueError(f"{query.shape[1]} rows are not rank {me}'s share of {total} among {world}")
    return list(zip(lengths, rates)), total
