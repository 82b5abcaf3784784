"""Dilated ring attention as one autograd Function, in the shape of the usual ring-flash-attention code.

Forward: K and V go round the ring, blocks are merged with the sigmoid update. Backward: K and V go round again, with
the global log-sum-exp the probabilities are recomputed block by block, and dK, dV travel with their block until they
are home.

Limits:
- The sigmoid update loses float32 digits where the blocks of one row differ by hundreds in lse.
- A backward always circulates K and V, also when only the query needs a gradient.
- First derivatives only. Tried on CPU with gloo only.
"""
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch.nn.functional import logsigmoid


class RingComm:
    """Sends tensors to the next rank of the ring and receives the previous rank's."""

    def __init__(self, group):
        self.group = group
        self.rank = dist.get_rank(group)
        self.size = dist.get_world_size(group)
        self.next = dist.get_global_rank(group, (self.rank + 1) % self.size)
        self.prev = dist.get_global_rank(group, (self.rank - 1) % self.size)
        self.ops = []
        self.works = []

    def send_recv(self, tensor, recv_shape):
        tensor = tensor.contiguous()
        received = torch.empty(recv_shape, dtype=tensor.dtype, device=tensor.device)
        if tensor.numel() > 0:
            self.ops.append(dist.P2POp(dist.isend, tensor, self.next, group=self.group))
        if received.numel() > 0:
            self.ops.append(dist.P2POp(dist.irecv, received, self.prev, group=self.group))
        return received

    def commit(self):
        self.works = dist.batch_isend_irecv(self.ops) if self.ops else []

    def wait(self):
        for work in self.works:
            work.wait()
        self.ops, self.works = [], []


@dataclass(frozen=True)
class Problem:
    """What all ranks must have in common."""
    batch: int
    heads: int
    kv_heads: int
    head_dim: int
    value_dim: int
    dtype: torch.dtype
    segment_lengths: tuple
    dilation_rates: tuple
    is_causal: bool
    scale: float | None
    sequence_length: int | None
    total: int

    def positions(self, rank, size, device):
        base, extra = divmod(self.total, size)
        start = rank * base + min(rank, extra)
        return torch.arange(start, start + base + (rank < extra), device=device)

    def multiplicity(self, q_pos, k_pos):
        """(heads, q, k) counts. A selected position is labelled with its segment; equal labels see each other."""
        heads = torch.arange(self.heads, device=q_pos.device)[:, None]
        total = torch.zeros(self.heads, len(q_pos), len(k_pos), dtype=torch.int32, device=q_pos.device)
        for w, r in zip(self.segment_lengths, self.dilation_rates):
            def label(pos, nowhere):
                return torch.where(pos % w % r == heads % r, pos // w, nowhere)
            total += label(q_pos, -1)[:, :, None] == label(k_pos, -2)[:, None, :]
        if self.is_causal:
            total.masked_fill_(k_pos[None, None, :] > q_pos[None, :, None], 0)
        return total


def scores_of(q, k, mult, scale):
    """scale q.k, -inf where nothing is seen; (batch, heads, q, k)."""
    k = k.repeat_interleave(q.shape[2] // k.shape[2], dim=2)
    scores = torch.einsum("bqhd,bkhd->bhqk", q, k).mul_(scale)
    return scores.masked_fill_(mult == 0, float("-inf"))


def forward_block(q, k, v, mult, scale):
    scores = scores_of(q, k, mult, scale)
    if scores.shape[-1] == 0:
        return scores.new_zeros(*scores.shape[:3], v.shape[-1]), scores.new_full(scores.shape[:3], float("-inf"))
    peak = scores.amax(-1, keepdim=True)
    peak = peak.masked_fill(peak == float("-inf"), 0)
    weights = mult * torch.exp(scores - peak)
    denominator = weights.sum(-1, keepdim=True)
    v = v.repeat_interleave(q.shape[2] // v.shape[2], dim=2)
    out = torch.einsum("bhqk,bkhe->bhqe", weights, v) / denominator.clamp(min=torch.finfo(q.dtype).tiny)
    return out, (denominator.log() + peak).squeeze(-1)


def update(out, lse, block_out, block_lse):
    gate = torch.sigmoid(block_lse - lse)
    merged = lse - logsigmoid(lse - block_lse)
    nothing_before = lse == float("-inf")
    nothing_now = block_lse == float("-inf")
    gate = gate.masked_fill(nothing_before, 1).masked_fill(nothing_now, 0)
    merged = torch.where(nothing_before, block_lse, torch.where(nothing_now, lse, merged))
    return out - gate[..., None] * (out - block_out), merged


def sum_kv_groups(grad, kv_heads):
    """(batch, k, heads, d) -> (batch, k, kv_heads, d)"""
    return grad.unflatten(2, (kv_heads, grad.shape[2] // kv_heads)).sum(3)


class RingAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, problem, scale, group):
        wide = torch.promote_types(problem.dtype, torch.float32)
        comm = RingComm(group)
        q = query.to(wide)
        k, v = key.contiguous(), value.contiguous()
        mine = problem.positions(comm.rank, comm.size, q.device)
        out = q.new_zeros(problem.batch, problem.heads, len(mine), problem.value_dim)
        lse = q.new_full((problem.batch, problem.heads, len(mine)), float("-inf"))
        for step in range(comm.size):
            theirs = problem.positions((comm.rank - step) % comm.size, comm.size, q.device)
            if step + 1 < comm.size:
                coming = len(problem.positions((comm.rank - step - 1) % comm.size, comm.size, q.device))
                next_k = comm.send_recv(k, (problem.batch, coming, problem.kv_heads, problem.head_dim))
                next_v = comm.send_recv(v, (problem.batch, coming, problem.kv_heads, problem.value_dim))
                comm.commit()
            mult = problem.multiplicity(mine, theirs)
            out, lse = update(out, lse, *forward_block(q, k.to(wide), v.to(wide), mult, scale))
            if step + 1 < comm.size:
                comm.wait()
                k, v = next_k, next_v
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.problem, ctx.scale, ctx.group = problem, scale, group
        return out.transpose(1, 2).to(problem.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad_out):
        query, key, value, out, lse = ctx.saved_tensors
        problem, scale = ctx.problem, ctx.scale
        wide = out.dtype
        kv_comm, grad_comm = RingComm(ctx.group), RingComm(ctx.group)
        rank, size = kv_comm.rank, kv_comm.size
        q, do = query.to(wide), grad_out.to(wide)
        k, v = key.contiguous(), value.contiguous()
        mine = problem.positions(rank, size, q.device)
        delta = torch.einsum("bqhe,bhqe->bhq", do, out)
        lse = lse.masked_fill(lse == float("-inf"), float("inf"))  # then exp(s - lse) = 0 in rows that see nothing
        repeats = problem.heads // problem.kv_heads
        dq = torch.zeros_like(q)
        dk = torch.zeros(k.shape, dtype=wide, device=k.device)
        dv = torch.zeros(v.shape, dtype=wide, device=v.device)
        for step in range(size):
            theirs = problem.positions((rank - step) % size, size, q.device)
            coming = len(problem.positions((rank - step - 1) % size, size, q.device))
            k_shape = (problem.batch, coming, problem.kv_heads, problem.head_dim)
            v_shape = (problem.batch, coming, problem.kv_heads, problem.value_dim)
            if step + 1 < size:
                next_k, next_v = kv_comm.send_recv(k, k_shape), kv_comm.send_recv(v, v_shape)
                kv_comm.commit()
            mult = problem.multiplicity(mine, theirs)
            k_block, v_block = k.to(wide), v.to(wide)
            probs = mult * torch.exp(scores_of(q, k_block, mult, scale) - lse[..., None])
            dprobs = torch.einsum("bqhe,bkhe->bhqk", do, v_block.repeat_interleave(repeats, dim=2))
            dscores = probs * (dprobs - delta[..., None]) * scale
            dq += torch.einsum("bhqk,bkhd->bqhd", dscores, k_block.repeat_interleave(repeats, dim=2))
            dk += sum_kv_groups(torch.einsum("bhqk,bqhd->bkhd", dscores, q), problem.kv_heads)
            dv += sum_kv_groups(torch.einsum("bhqk,bqhe->bkhe", probs, do), problem.kv_heads)
            if step + 1 < size:
                kv_comm.wait()
                k, v = next_k, next_v
            if size > 1:  # after the last step this brings them home
                next_dk, next_dv = grad_comm.send_recv(dk, k_shape), grad_comm.send_recv(dv, v_shape)
                grad_comm.commit()
                grad_comm.wait()
                dk, dv = next_dk, next_dv
        grads = [g.to(problem.dtype) if need else None for g, need in zip((dq, dk, dv), ctx.needs_input_grad)]
        return (*grads, None, None, None)


def describe(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, rank, size):
    """The Problem, or TypeError / ValueError."""
    if not all(isinstance(x, torch.Tensor) for x in (query, key, value)):
        raise TypeError("query, key and value must be tensors")
    if not query.dtype.is_floating_point:
        raise TypeError("query, key and value must be floating point")
    if query.dtype != key.dtype or query.dtype != value.dtype:
        raise TypeError("query, key and value must have the same dtype")
    if query.device != key.device or query.device != value.device:
        raise ValueError("query, key and value must be on the same device")
    if not query.ndim == key.ndim == value.ndim == 4:
        raise ValueError("query, key and value must be (batch, length, heads, dim)")
    batch, local, heads, head_dim = query.shape
    kv_heads, value_dim = value.shape[2:]
    if tuple(key.shape) != (batch, local, kv_heads, head_dim) or tuple(value.shape[:2]) != (batch, local):
        raise ValueError("query, key and value do not fit together")
    if kv_heads < 1 or heads % kv_heads != 0:
        raise ValueError("heads must be a multiple of kv_heads")
    if head_dim < 1:
        raise ValueError("head_dim must be positive")

    def integers(values, name):
        values = list(values)
        if any(type(x) is not int for x in values):
            raise TypeError(f"{name} must hold ints")
        if not values or min(values) <= 0:
            raise ValueError(f"{name} must hold positive ints, at least one")
        return tuple(values)

    lengths = integers(segment_lengths, "segment_lengths")
    rates = integers(dilation_rates, "dilation_rates")
    if len(lengths) != len(rates):
        raise ValueError("segment_lengths and dilation_rates must be equally long")
    if type(is_causal) is not bool:
        raise TypeError("is_causal must be True or False")
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, (float, int))):
        raise TypeError("scale must be a float")
    if scale is not None and not abs(scale) < float("inf"):
        raise ValueError("scale must be finite")
    if sequence_length is not None and type(sequence_length) is not int:
        raise TypeError("sequence_length must be an int")
    total = local * size if sequence_length is None else sequence_length
    if total < 0:
        raise ValueError("sequence_length must not be negative")
    problem = Problem(batch, heads, kv_heads, head_dim, value_dim, query.dtype, lengths, rates, is_causal,
                      None if scale is None else float(scale), sequence_length, total)
    if len(problem.positions(rank, size, "cpu")) != local:
        raise ValueError("this rank's length does not fit sequence_length")
    return problem


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None):
    if group is None:
        group = dist.group.WORLD
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    mine = {"problem": None, "error": None, "needs": None}
    try:
        mine["problem"] = describe(query, key, value, segment_lengths, dilation_rates, is_causal, scale,
                                   sequence_length, rank, size)
        mine["needs"] = [torch.is_grad_enabled() and x.requires_grad for x in (query, key, value)]
    except (TypeError, ValueError) as error:
        mine["error"] = (type(error), f"{error} (rank {rank})")
    everyone = [None] * size
    dist.all_gather_object(everyone, mine, group=group)
    for other in everyone:
        if other["error"] is not None:
            kind, message = other["error"]
            raise kind(message)
    if any(other["problem"] != everyone[0]["problem"] for other in everyone):
        raise ValueError("the arguments are not the same on all ranks")

    # An input that needs a gradient on one rank is given one on all, so that all take part in the backward.
    inputs = [query, key, value]
    for index in range(3):
        if any(other["needs"][index] for other in everyone) and not inputs[index].requires_grad:
            inputs[index] = inputs[index].detach().requires_grad_(True)
    problem = mine["problem"]
    return RingAttention.apply(*inputs, problem, problem.head_dim ** -0.5 if scale is None else float(scale), group)
