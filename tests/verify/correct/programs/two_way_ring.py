"""Dilated attention on a ring that sends both ways: every block goes ceil((p-1)/2) ranks to the right and
floor((p-1)/2) to the left, so a pass takes half as many steps as on a one-way ring. One autograd Function.

The blocks that came by are kept for the backward. There the gradients run the same ways in reverse: they start at the
far ends, every rank on the way back adds its own part, and they end at the owner.

Limits: a rank keeps all key/value blocks between forward and backward; first derivatives only; tried on CPU with gloo
only.
"""
import math
from collections import namedtuple

import torch
import torch.distributed as dist

RIGHT, LEFT = +1, -1

Setup = namedtuple("Setup", "group rank size rows branches is_causal scale heads kv_heads key_dim value_dim dtype wide")


def reach(size, direction):
    """How many ranks a block goes in this direction."""
    return size // 2 if direction == RIGHT else (size - 1) // 2


def start_transfers(s, transfers):
    """transfers: (tensor, direction, rows of the tensor that comes in). Returns (works, incoming tensors)."""
    ops, incoming = [], []
    for tensor, direction, length in transfers:
        tensor = tensor.contiguous()
        buffer = tensor.new_empty(tensor.shape[0], length, *tensor.shape[2:])
        to = dist.get_global_rank(s.group, (s.rank + direction) % s.size)
        fro = dist.get_global_rank(s.group, (s.rank - direction) % s.size)
        if tensor.numel() > 0:
            ops.append(dist.P2POp(dist.isend, tensor, to, s.group))
        if buffer.numel() > 0:
            ops.append(dist.P2POp(dist.irecv, buffer, fro, s.group))
        incoming.append(buffer)
    return (dist.batch_isend_irecv(ops) if ops else []), incoming


def finish(works):
    for work in works:
        work.wait()


def visible_counts(s, owner):
    i, j = s.rows[s.rank], s.rows[owner]
    counts = torch.zeros(s.heads, len(i), len(j), dtype=s.wide, device=i.device)
    for w, r in s.branches:
        same = (i // w)[:, None] == (j // w)[None, :]
        if s.is_causal:
            same &= j[None, :] <= i[:, None]
        for offset in range(min(r, s.heads)):  # heads offset, offset + r, ... are alike
            seen = same & ((i % w) % r == offset)[:, None] & ((j % w) % r == offset)[None, :]
            counts[offset::r] += seen
    return counts


def by_group(s, x):
    """(batch, rows, heads, dim) -> (batch, kv_heads, group, rows, dim)"""
    return x.unflatten(2, (s.kv_heads, s.heads // s.kv_heads)).permute(0, 2, 3, 1, 4)


def log_weights(s, q, k, owner):
    """log(M exp(s)), -inf where M = 0; (batch, kv_heads, group, queries, keys)"""
    scores = torch.einsum("bkgid,bjkd->bkgij", by_group(s, q), k) * s.scale
    return scores + visible_counts(s, owner).log().unflatten(0, (s.kv_heads, s.heads // s.kv_heads))


def one_block(s, q, block, owner):
    k, v = block.to(s.wide).split([s.key_dim, s.value_dim], dim=-1)
    logs = log_weights(s, q, k, owner)
    lse = torch.logsumexp(logs, dim=-1)
    p = torch.exp(logs - lse.nan_to_num(neginf=0.0)[..., None])
    return torch.einsum("bkgij,bjke->bkgie", p, v), lse


def combine(first, second):
    (out1, lse1), (out2, lse2) = first, second
    top = torch.maximum(lse1, lse2).nan_to_num(neginf=0.0)
    weight1, weight2 = torch.exp(lse1 - top), torch.exp(lse2 - top)
    total = weight1 + weight2
    safe = torch.where(total > 0, total, 1.0)
    out = out1 * (weight1 / safe)[..., None] + out2 * (weight2 / safe)[..., None]
    return out, top + total.log()


class TwoWayRing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, s):
        q = query.to(s.wide)
        home = torch.cat([key, value], dim=-1)
        at = {RIGHT: home, LEFT: home}  # the block that is here now on its way in each direction
        kept = {0: home}
        todo, result = [(home, s.rank)], None
        for step in range(1, reach(s.size, RIGHT) + 2):
            going = [d for d in (RIGHT, LEFT) if step <= reach(s.size, d)]
            works, incoming = start_transfers(
                s, [(at[d], d, len(s.rows[(s.rank - d * step) % s.size])) for d in going])
            for block, owner in todo:  # while the next blocks are on their way
                part = one_block(s, q, block, owner)
                result = part if result is None else combine(result, part)
            finish(works)
            todo = []
            for d, block in zip(going, incoming):
                at[d] = kept[d * step] = block
                todo.append((block, (s.rank - d * step) % s.size))
        out, lse = result
        ctx.s, ctx.places = s, list(kept)
        ctx.save_for_backward(query, out, lse, *kept.values())
        return out.permute(0, 3, 1, 2, 4).flatten(2, 3).to(s.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        s = ctx.s
        query, out, lse, *blocks = ctx.saved_tensors
        blocks = dict(zip(ctx.places, blocks))
        q, g = query.to(s.wide), by_group(s, grad.to(s.wide))
        delta = (g * out).sum(-1, keepdim=True)
        grad_q = torch.zeros_like(q)
        lse = lse.nan_to_num(neginf=0.0)[..., None]

        def part(place):
            """Adds to grad_q; returns the gradient of the block `place` ranks away that comes from this rank's rows."""
            k, v = blocks[place].to(s.wide).split([s.key_dim, s.value_dim], dim=-1)
            p = torch.exp(log_weights(s, q, k, (s.rank - place) % s.size) - lse)
            ds = p * (torch.einsum("bkgie,bjke->bkgij", g, v) - delta) * s.scale
            grad_q.add_(torch.einsum("bkgij,bjkd->bikgd", ds, k).flatten(2, 3))
            grad_k = torch.einsum("bkgij,bkgid->bjkd", ds, by_group(s, q))
            return torch.cat([grad_k, torch.einsum("bkgij,bkgie->bjke", p, g)], dim=-1)

        total = part(0)
        keys_wanted = ctx.needs_input_grad[1] or ctx.needs_input_grad[2]
        coming_back = {}
        for step in range(reach(s.size, RIGHT), 0, -1):
            transfers = []
            for d in (RIGHT, LEFT):
                if step <= reach(s.size, d):
                    block_grad = part(d * step)
                    if d in coming_back:
                        block_grad = block_grad + coming_back[d]
                    transfers.append((block_grad, -d, len(s.rows[(s.rank - d * (step - 1)) % s.size])))
            if keys_wanted:
                works, incoming = start_transfers(s, transfers)
                finish(works)
                coming_back = {-direction: tensor for (_, direction, _), tensor in zip(transfers, incoming)}
        for tensor in coming_back.values():
            total = total + tensor
        grads = (grad_q, *total.split([s.key_dim, s.value_dim], dim=-1))
        return (*(x.to(s.dtype) if need else None for x, need in zip(grads, ctx.needs_input_grad)), None)


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None):
    group = group if group is not None else dist.group.WORLD
    branches, n, gradients = consult(query, key, value, segment_lengths, dilation_rates, is_causal, scale,
                                     sequence_length, group)
    size = dist.get_world_size(group)
    s = Setup(group=group, rank=dist.get_rank(group), size=size,
              rows=torch.arange(n, device=query.device).tensor_split(size), branches=branches, is_causal=is_causal,
              scale=1 / math.sqrt(query.shape[3]) if scale is None else scale, heads=query.shape[2],
              kv_heads=key.shape[2], key_dim=key.shape[3], value_dim=value.shape[3], dtype=query.dtype,
              wide=torch.promote_types(query.dtype, torch.float32))
    inputs = []
    for x, gradient in zip((query, key, value), gradients):
        if gradient and not x.requires_grad:  # wanted on another rank only: all must join the backward
            x = x.detach().requires_grad_()
        inputs.append(x)
    return TwoWayRing.apply(*inputs, s)


def consult(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group):
    """Rank 0's view of the problem is broadcast; then all ranks tell whether they agree."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    view, trouble = None, None
    try:
        view, n = look_at(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, rank,
                          size)
    except (TypeError, ValueError) as error:
        trouble = error
    box = [view]
    dist.broadcast_object_list(box, src=dist.get_global_rank(group, 0), group=group)
    flags = torch.zeros(5, dtype=torch.int32, device=query.device if isinstance(query, torch.Tensor) else "cpu")
    flags[0] = trouble is not None
    flags[1] = view != box[0]
    if trouble is None:
        flags[2:] = torch.tensor([x.requires_grad and torch.is_grad_enabled() for x in (query, key, value)])
    dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=group)
    if trouble is not None:
        raise trouble
    if flags[0]:
        raise ValueError("bad arguments on another rank")
    if flags[1]:
        raise ValueError("the arguments differ between the ranks")
    return list(zip(view["lengths"], view["rates"])), n, flags[2:].tolist()


def look_at(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, rank, size):
    for x in (query, key, value):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"query, key and value are tensors, not {type(x).__name__}")
        if x.dim() != 4:
            raise ValueError(f"query, key and value have 4 dimensions, not {x.dim()}")
    if len({query.dtype, key.dtype, value.dtype}) > 1 or not query.dtype.is_floating_point:
        raise TypeError("query, key and value have one floating dtype")
    if len({query.device, key.device, value.device}) > 1:
        raise ValueError("query, key and value are on one device")
    if len({query.shape[:2], key.shape[:2], value.shape[:2]}) > 1:
        raise ValueError("query, key and value have one batch size and one length")
    if query.shape[3] != key.shape[3] or query.shape[3] == 0:
        raise ValueError("query and key have one head_dim, and it is not 0")
    if key.shape[2] != value.shape[2] or key.shape[2] == 0 or query.shape[2] % key.shape[2]:
        raise ValueError("key and value have one number of heads, and it divides that of query")
    lengths, rates = list(segment_lengths), list(dilation_rates)
    if not all(type(x) is int for x in lengths + rates):
        raise TypeError("segment lengths and dilation rates are ints")
    if not all(x > 0 for x in lengths + rates):
        raise ValueError("segment lengths and dilation rates are positive")
    if len(lengths) != len(rates) or not lengths:
        raise ValueError("every segment length has its dilation rate, and there is at least one")
    if not isinstance(is_causal, bool):
        raise TypeError("is_causal is a bool")
    if scale is not None:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError("scale is a number")
        if not math.isfinite(scale):
            raise ValueError("scale is finite")
    if sequence_length is None:
        n = query.shape[1] * size
    else:
        n = sequence_length
        if type(n) is not int:
            raise TypeError("sequence_length is an int")
        if n < 0:
            raise ValueError("sequence_length is at least 0")
        if query.shape[1] != (n - rank + size - 1) // size:
            raise ValueError("the local length is this rank's part of sequence_length")
    return dict(batch=query.shape[0], heads=query.shape[2], kv_heads=key.shape[2], head_dim=query.shape[3],
                value_dim=value.shape[3], dtype=query.dtype, lengths=lengths, rates=rates, is_causal=is_causal,
                scale=scale, n=n, given=sequence_length), n
