"""Dilated attention after DeepSpeed-Ulysses: an all-to-all turns sequence shards into head shards, each rank computes
its heads over the whole sequence, and a second all-to-all turns the result back.

Heads need not be divisible by the number of ranks: query heads are split unevenly (the first ranks get one more, some
may get none). Each rank is sent just the kv heads its query heads read; a kv head whose group of query heads spans
ranks is replicated, and its gradients add up on the way back.

Over a whole sequence dilated attention is sparse in an easy way, so no mask is made: each segment's selected rows are
picked by index.

Limits: python loops over heads and segments (plain, not fast); tried on CPU with gloo only.
"""
import math
import operator

import torch
import torch.distributed as dist


class AllToAll(torch.autograd.Function):
    """A flat buffer, cut into one piece per rank by send_sizes, for another cut by receive_sizes."""

    @staticmethod
    def forward(ctx, flat, send_sizes, receive_sizes, group):
        ctx.send_sizes, ctx.receive_sizes, ctx.group = send_sizes, receive_sizes, group
        received = flat.new_empty(sum(receive_sizes))
        dist.all_to_all_single(received, flat.contiguous(), receive_sizes, send_sizes, group=group)
        return received

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        sent_back = grad.new_empty(sum(ctx.send_sizes))
        dist.all_to_all_single(sent_back, grad.contiguous(), ctx.send_sizes, ctx.receive_sizes, group=ctx.group)
        return sent_back, None, None, None


def swap(to_send, shapes_to_receive, group):
    """to_send[t] is a list of tensors for rank t; shapes_to_receive[s] the shapes of those that rank s sends here."""
    flat = torch.cat([tensor.reshape(-1) for tensors in to_send for tensor in tensors])
    send_sizes = [sum(tensor.numel() for tensor in tensors) for tensors in to_send]
    receive_sizes = [sum(math.prod(shape) for shape in shapes) for shapes in shapes_to_receive]
    flat = AllToAll.apply(flat, send_sizes, receive_sizes, group)
    result = []
    for piece, shapes in zip(flat.split(receive_sizes), shapes_to_receive):
        pieces = piece.split([math.prod(shape) for shape in shapes])
        result.append([p.reshape(shape) for p, shape in zip(pieces, shapes)])
    return result


def selections(head, n, branches):
    """The selected rows of each segment of each branch, for one head, as index lists."""
    for w, r in branches:
        for start in range(0, n, w):
            rows = list(range(start + head % r, min(start + w, n), r))
            if rows:
                yield rows


def one_head(q, k, v, head, branches, is_causal, scale):
    """(batch, n, dim) tensors of one head. Numerator and denominator add up over branches and segments."""
    batch, n, _ = q.shape
    pieces = []
    top = q.new_full((batch, n), -math.inf)
    for rows in selections(head, n, branches):
        rows = torch.tensor(rows, device=q.device)
        scores = q[:, rows] @ k[:, rows].transpose(1, 2) * scale
        if is_causal:
            future = torch.ones(len(rows), len(rows), dtype=torch.bool, device=q.device).triu(1)
            scores = scores.masked_fill(future, -math.inf)
        pieces.append((rows, scores))
        top[:, rows] = torch.maximum(top[:, rows], scores.detach().amax(-1))
    numerator = torch.zeros_like(v)
    denominator = v.new_zeros(batch, n)
    for rows, scores in pieces:
        weights = torch.exp(scores - top[:, rows, None])  # a selected row sees itself, so top is finite there
        numerator = numerator.index_add(1, rows, weights @ v[:, rows])
        denominator = denominator.index_add(1, rows, weights.sum(-1))
    denominator = denominator.masked_fill(denominator == 0, 1.0)
    return numerator / denominator.unsqueeze(-1)


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None):
    group = dist.group.WORLD if group is None else group
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    branches, wants = settle(group, query, key, value, segment_lengths, dilation_rates, is_causal, scale,
                             sequence_length)
    query, key, value = (x.detach().requires_grad_() if want and not x.requires_grad else x
                         for want, x in zip(wants, (query, key, value)))
    batch, local, heads, head_dim = query.shape
    kv_heads, value_dim = value.shape[2:]
    n = local * world if sequence_length is None else operator.index(sequence_length)
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    wide = torch.promote_types(query.dtype, torch.float32)
    q, k, v = query.to(wide), key.to(wide), value.to(wide)

    lengths = [len(rows) for rows in torch.arange(n).tensor_split(world)]
    heads_of = [part.tolist() for part in torch.arange(heads).tensor_split(world)]
    kv_heads_of = [sorted({h // (heads // kv_heads) for h in part}) for part in heads_of]
    mine, my_kv = heads_of[rank], kv_heads_of[rank]

    # sequence shards -> head shards
    to_send = [[q[:, :, heads_of[t]], k[:, :, kv_heads_of[t]], v[:, :, kv_heads_of[t]]] for t in range(world)]
    shapes = [[(batch, length, len(mine), head_dim), (batch, length, len(my_kv), head_dim),
               (batch, length, len(my_kv), value_dim)] for length in lengths]
    received = swap(to_send, shapes, group)
    q, k, v = (torch.cat(parts, dim=1) for parts in zip(*received))

    # A rank without heads must be connected to what it received, or its backward would not join the exchange.
    out = q.new_zeros(batch, n, len(mine), value_dim) + q[:, :0].sum() + k[:, :0].sum() + v[:, :0].sum()
    if mine:
        out = out + torch.stack([
            one_head(q[:, :, i], k[:, :, my_kv.index(h // (heads // kv_heads))],
                     v[:, :, my_kv.index(h // (heads // kv_heads))], h, branches, is_causal, scale)
            for i, h in enumerate(mine)], dim=2)

    # head shards -> sequence shards
    to_send = [[part] for part in out.split(lengths, dim=1)]
    shapes = [[(batch, local, len(part), value_dim)] for part in heads_of]
    out = torch.cat([parts[0] for parts in swap(to_send, shapes, group)], dim=2)
    return out.to(query.dtype)


def settle(group, query, key, value, *rest):
    """Check on each rank, share exceptions, raise the first one everywhere. Returns the branches
    and whether some rank needs the gradient of each input."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    try:
        outcome = audit(query, key, value, *rest, rank, world)
        needs = [torch.is_grad_enabled() and x.requires_grad for x in (query, key, value)]
    except (TypeError, ValueError) as error:
        outcome, needs = type(error)(f"rank {rank}: {error}"), None
    outcomes = [None] * world
    dist.all_gather_object(outcomes, (outcome, needs), group=group)
    for other, _ in outcomes:
        if isinstance(other, Exception):
            raise other
    first = outcomes[0][0]
    for r, (other, _) in enumerate(outcomes):
        for name in first:
            if first[name] != other[name]:
                raise ValueError(f"{name} is {first[name]} on rank 0 and {other[name]} on rank {r}")
    branches = list(zip(first["segment_lengths"], first["dilation_rates"]))
    return branches, [any(needs[i] for _, needs in outcomes) for i in range(3)]


def audit(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, rank, world):
    if not (isinstance(query, torch.Tensor) and isinstance(key, torch.Tensor) and isinstance(value, torch.Tensor)):
        raise TypeError("query, key, value: tensors expected")
    if query.dim() != 4 or key.dim() != 4 or value.dim() != 4:
        raise ValueError("query, key, value: (batch, length, heads, dim) expected")
    if not query.is_floating_point():
        raise TypeError(f"query, key, value: floating point expected, got {query.dtype}")
    if {query.dtype} != {key.dtype, value.dtype} or {query.device} != {key.device, value.device}:
        raise ValueError("query, key, value: one dtype and one device expected")
    batch, local, heads, head_dim = query.shape
    kv_heads = key.shape[2]
    if key.shape != (batch, local, kv_heads, head_dim):
        raise ValueError(f"key: {tuple(key.shape)} does not go with query {tuple(query.shape)}")
    if value.shape[:3] != key.shape[:3]:
        raise ValueError(f"value: {tuple(value.shape)} does not go with key {tuple(key.shape)}")
    if head_dim == 0 or kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"{heads} heads of {head_dim} do not go with {kv_heads} kv heads")

    def index(x, name):
        if isinstance(x, bool) or isinstance(x, torch.Tensor):
            raise TypeError(f"{name}: integer expected, got {x!r}")
        return operator.index(x)

    segment_lengths = [index(w, "segment_lengths") for w in segment_lengths]
    dilation_rates = [index(r, "dilation_rates") for r in dilation_rates]
    if len(segment_lengths) != len(dilation_rates) or not segment_lengths:
        raise ValueError("segment_lengths, dilation_rates: equally many expected, and not none")
    if min(segment_lengths + dilation_rates) < 1:
        raise ValueError("segment_lengths, dilation_rates: positive integers expected")
    if not isinstance(is_causal, bool):
        raise TypeError(f"is_causal: bool expected, got {is_causal!r}")
    if scale is not None:
        if isinstance(scale, (bool, str, torch.Tensor)) or not hasattr(scale, "__float__"):
            raise TypeError(f"scale: number expected, got {scale!r}")
        if not math.isfinite(scale):
            raise ValueError(f"scale: finite number expected, got {scale!r}")
    if sequence_length is not None:
        sequence_length = index(sequence_length, "sequence_length")
        if sequence_length < 0:
            raise ValueError(f"sequence_length: {sequence_length} is negative")
        share = len(range(rank, sequence_length, world))  # the first n mod p ranks have one more
        if local != share:
            raise ValueError(f"sequence_length: {sequence_length} gives {share} rows here, not {local}")
    return {"batch size": batch, "number of heads": heads, "number of kv heads": kv_heads, "head_dim": head_dim,
            "value_dim": value.shape[3], "dtype": query.dtype, "segment_lengths": segment_lengths,
            "dilation_rates": dilation_rates, "is_causal": is_causal,
            "scale": None if scale is None else float(scale), "sequence_length": sequence_length,
            "local length": local if sequence_length is None else None}
