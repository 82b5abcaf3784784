"""Dilated ring attention: key/value blocks go round a ring, partial results are merged with the sigmoid update of
ring-flash-attention, and autograd differentiates the whole loop through a send/recv Function.

Limits:
- The update subtracts log-sum-exps, so float32 loses digits where the blocks of one row differ by hundreds in lse.
- First derivatives only.
- Tried on CPU with gloo only.
"""
import math

import torch
import torch.distributed as dist
import torch.nn.functional as F


def _exchange(tensor, incoming_shape, step, group):
    """Send `tensor` to the rank `step` places on, receive a tensor from the rank `step` places back."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    to = dist.get_global_rank(group, (rank + step) % size)
    source = dist.get_global_rank(group, (rank - step) % size)
    tensor = tensor.contiguous()
    incoming = tensor.new_empty(incoming_shape)
    ops = []
    if tensor.numel():
        ops.append(dist.P2POp(dist.isend, tensor, to, group))
    if incoming.numel():
        ops.append(dist.P2POp(dist.irecv, incoming, source, group))
    if ops:
        for work in dist.batch_isend_irecv(ops):
            work.wait()
    return incoming


class _PassOn(torch.autograd.Function):
    """Forward: blocks move one rank on. Backward: their gradients move one rank back."""

    @staticmethod
    def forward(ctx, block, incoming_shape, group):
        ctx.shape, ctx.group = block.shape, group
        return _exchange(block, incoming_shape, +1, group)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        return _exchange(grad, ctx.shape, -1, ctx.group), None, None


def _count_visible(q_rows, k_rows, heads, branches, is_causal):
    """(heads, queries, keys): in how many branches the query sees the key."""
    i, j = q_rows.view(1, -1, 1), k_rows.view(1, 1, -1)
    head = torch.arange(heads, device=q_rows.device).view(-1, 1, 1)
    count = torch.zeros(heads, len(q_rows), len(k_rows), dtype=torch.long, device=q_rows.device)
    for w, r in branches:
        chosen_i, chosen_j = i % w % r == head % r, j % w % r == head % r
        count += chosen_i & chosen_j & (i // w == j // w)
    if is_causal:
        count *= j <= i
    return count


def _block_attention(q, k, v, count, scale):
    """Attention over one block. Rows that see nothing in it have out = 0 and lse = -inf."""
    repeats = q.shape[2] // k.shape[2]
    k, v = k.repeat_interleave(repeats, dim=2), v.repeat_interleave(repeats, dim=2)
    sees = (count > 0).any(-1)
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * scale + count.to(q.dtype).log()
    scores = scores.masked_fill(~sees[..., None], 0.0)  # keeps nan away from the softmax of an all -inf row
    out = torch.einsum("bhij,bjhd->bhid", scores.softmax(-1), v) * sees[..., None]
    lse = scores.logsumexp(-1).masked_fill(~sees, -math.inf)
    return out, lse


def _update(out, lse, block_out, block_lse):
    """The public update, guarded where one of the two sides has seen nothing yet."""
    old, new = lse > -math.inf, block_lse > -math.inf
    both = old & new
    a, b = lse.where(both, 0.0), block_lse.where(both, 0.0)
    gate = torch.where(both, torch.sigmoid(b - a), new.to(out.dtype)).unsqueeze(-1)
    out = out - gate * (out - block_out)
    lse = torch.where(both, a - F.logsigmoid(a - b), torch.where(new, block_lse, lse))
    return out, lse


def _inspect(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, rank, size):
    """Raise for arguments that are wrong by themselves; else return what must be the same on all ranks."""
    tensors = {"query": query, "key": key, "value": value}
    for name, tensor in tensors.items():
        if not isinstance(tensor, torch.Tensor):
            raise TypeError(f"{name} must be a tensor, not {type(tensor).__name__}")
        if tensor.dim() != 4:
            raise ValueError(f"{name} must have 4 dimensions, not {tensor.dim()}")
        if not tensor.is_floating_point():
            raise TypeError(f"{name} must be floating point, not {tensor.dtype}")
        if tensor.dtype != query.dtype or tensor.device != query.device:
            raise ValueError("query, key and value must have one dtype and one device")
    if key.shape[:3] != value.shape[:3] or key.shape[:2] != query.shape[:2] or key.shape[3] != query.shape[3]:
        raise ValueError(f"shapes do not fit: {query.shape}, {key.shape}, {value.shape}")
    if key.shape[2] == 0 or query.shape[2] % key.shape[2]:
        raise ValueError(f"{query.shape[2]} heads are not a multiple of {key.shape[2]} kv heads")
    if query.shape[3] == 0 and scale is None:
        raise ValueError("head_dim 0 needs an explicit scale")

    lengths, rates = tuple(segment_lengths), tuple(dilation_rates)
    for number in lengths + rates:
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"segment lengths and dilation rates must be ints, not {number!r}")
        if number < 1:
            raise ValueError(f"segment lengths and dilation rates must be positive, not {number}")
    if not lengths or len(lengths) != len(rates):
        raise ValueError("segment_lengths and dilation_rates must have one and the same length, at least 1")
    if not isinstance(is_causal, bool):
        raise TypeError(f"is_causal must be a bool, not {is_causal!r}")
    if scale is not None:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            raise TypeError(f"scale must be a number or None, not {scale!r}")
        if not math.isfinite(scale):
            raise ValueError(f"scale must be finite, not {scale}")

    local = query.shape[1]
    if sequence_length is not None:
        if isinstance(sequence_length, bool) or not isinstance(sequence_length, int):
            raise TypeError(f"sequence_length must be an int or None, not {sequence_length!r}")
        if sequence_length < 0:
            raise ValueError(f"sequence_length must not be negative, not {sequence_length}")
        owned = sequence_length // size + (rank < sequence_length % size)
        if local != owned:
            raise ValueError(f"rank {rank} of {size} owns {owned} of {sequence_length} rows, not {local}")
    batch, _, heads, head_dim = query.shape
    return (batch, heads, key.shape[2], head_dim, value.shape[3], query.dtype, lengths, rates, is_causal, scale,
            local * size if sequence_length is None else sequence_length, sequence_length is None)


def _agree(group, *args):
    """Check the arguments together, so that either every rank raises or none does."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    facts = complaint = wants = None
    try:
        facts = _inspect(*args, rank, size)
        wants = [t.requires_grad and torch.is_grad_enabled() for t in args[:3]]
    except (TypeError, ValueError) as error:
        complaint = error
    notes = [None] * size
    dist.all_gather_object(notes, (facts, wants, complaint and f"rank {rank}: {complaint}"), group=group)
    if complaint is not None:
        raise complaint
    for _, _, text in notes:
        if text is not None:
            raise ValueError(text)
    if any(note[0] != notes[0][0] for note in notes):
        raise ValueError("the ranks were given different arguments")
    return facts, [any(column) for column in zip(*(note[1] for note in notes))]


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None):
    group = dist.group.WORLD if group is None else group
    facts, wants = _agree(group, query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length)
    batch, heads, kv_heads, head_dim, value_dim, dtype, lengths, rates, _, _, n, _ = facts
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    scale = 1 / math.sqrt(head_dim) if scale is None else scale
    branches = list(zip(lengths, rates))

    # All ranks must build the same graph, or the backward exchanges would not pair up.
    query, key, value = (t.detach().requires_grad_() if want and not t.requires_grad else t
                         for t, want in zip((query, key, value), wants))
    wide = torch.promote_types(dtype, torch.float32)
    q = query.to(wide)
    block = torch.cat([key.to(wide), value.to(wide)], dim=-1)
    rows = torch.arange(n, device=query.device).tensor_split(size)

    out = lse = None
    for step in range(size):
        if step:
            owner = (rank - step) % size
            block = _PassOn.apply(block, (batch, len(rows[owner]), kv_heads, head_dim + value_dim), group)
        k, v = block.split([head_dim, value_dim], dim=-1)
        count = _count_visible(rows[rank], rows[(rank - step) % size], heads, branches, is_causal)
        block_out, block_lse = _block_attention(q, k, v, count, scale)
        if out is None:
            out, lse = block_out, block_lse
        else:
            out, lse = _update(out, lse, block_out, block_lse)
    return out.transpose(1, 2).to(dtype)
