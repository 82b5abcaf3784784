"""Dilated attention in the manner of FlashAttention over gathered keys: every owner broadcasts its K and V, the keys are
walked through in tiles with a running maximum and denominator, and the backward recomputes each tile's probabilities
from the log-sum-exp and reduces dK and dV to their owners. Accumulators are float32 for half types.

Limits: every rank holds all keys and values and their gradients; first derivatives only; tried on CPU with gloo only.
"""
import torch
import torch.distributed as dist
from torch.autograd import Function
from torch.autograd.function import once_differentiable

TILE = 16


class Plan:
    """Positions, branches and the group of one call."""

    def __init__(self, n, heads, kv_heads, branches, is_causal, scale, group, device):
        self.group = group
        self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
        self.bounds = [0]
        for r in range(self.size):
            self.bounds.append(self.bounds[-1] + n // self.size + (1 if r < n % self.size else 0))
        self.n, self.heads, self.kv_heads = n, heads, kv_heads
        self.branches, self.is_causal, self.scale = branches, is_causal, scale
        self.q_pos = torch.arange(self.bounds[self.rank], self.bounds[self.rank + 1], device=device)
        self.head = torch.arange(heads, device=device)

    def tiles(self):
        return [(start, min(start + TILE, self.n)) for start in range(0, self.n, TILE)]

    def mask(self, start, stop):
        """M for the keys start..stop; (heads, queries, keys)."""
        k_pos = torch.arange(start, stop, device=self.q_pos.device)
        m = torch.zeros(self.heads, len(self.q_pos), stop - start, device=self.q_pos.device)
        for w, r in self.branches:
            hit_q = (self.q_pos % w % r)[None, :] == (self.head % r)[:, None]
            hit_k = (k_pos % w % r)[None, :] == (self.head % r)[:, None]
            together = (self.q_pos // w)[:, None] == (k_pos // w)[None, :]
            m += (hit_q[:, :, None] & hit_k[:, None, :] & together[None]).float()
        if self.is_causal:
            m[:, k_pos[None, :] > self.q_pos[:, None]] = 0
        return m

    def gather(self, x):
        """Every owner broadcasts its rows."""
        full = torch.empty(x.shape[0], self.n, *x.shape[2:], dtype=x.dtype, device=x.device)
        for r in range(self.size):
            start, stop = self.bounds[r], self.bounds[r + 1]
            part = x.detach().clone(memory_format=torch.contiguous_format) if r == self.rank else \
                full[:, start:stop].contiguous()
            if part.numel():
                dist.broadcast(part, src=dist.get_global_rank(self.group, r), group=self.group)
            full[:, start:stop] = part
        return full

    def reduce(self, full):
        """Every owner gets the sum of its rows."""
        for r in range(self.size):
            part = full[:, self.bounds[r]:self.bounds[r + 1]].clone(memory_format=torch.contiguous_format)
            if part.numel():
                dist.reduce(part, dst=dist.get_global_rank(self.group, r), group=self.group)
            if r == self.rank:
                mine = part
        return mine


def heads_first(x, times=1):
    """(batch, rows, heads, dim) -> (batch, heads * times, rows, dim)"""
    return x.transpose(1, 2).repeat_interleave(times, dim=1)


class OnlineAttention(Function):
    @staticmethod
    def forward(ctx, query, key, value, plan):
        acc_type = torch.float64 if query.dtype == torch.float64 else torch.float32
        keys, values = plan.gather(key), plan.gather(value)
        times = plan.heads // plan.kv_heads
        q = heads_first(query).to(acc_type)
        shape = q.shape[:3]
        maximum = torch.full(shape, -torch.inf, dtype=acc_type, device=q.device)
        denominator = torch.zeros(shape, dtype=acc_type, device=q.device)
        acc = torch.zeros(*shape, value.shape[3], dtype=acc_type, device=q.device)
        for start, stop in plan.tiles():
            m = plan.mask(start, stop)
            k = heads_first(keys[:, start:stop], times).to(acc_type)
            v = heads_first(values[:, start:stop], times).to(acc_type)
            s = (q @ k.mT * plan.scale).masked_fill(m == 0, -torch.inf)
            new_maximum = torch.maximum(maximum, s.amax(-1))
            shift = torch.where(new_maximum == -torch.inf, 0, new_maximum)  # nothing seen so far: any number will do
            p = m * torch.exp(s - shift[..., None])
            rescale = torch.exp(maximum - shift)
            denominator = denominator * rescale + p.sum(-1)
            acc = acc * rescale[..., None] + p @ v
            maximum = new_maximum
        out = acc / torch.where(denominator == 0, 1, denominator)[..., None]
        # +inf in rows that see nothing makes all their probabilities zero in the backward
        lse = torch.where(denominator == 0, torch.inf, maximum + denominator.log())
        ctx.plan = plan
        ctx.save_for_backward(query, keys, values, out, lse)
        return out.transpose(1, 2).to(query.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_out):
        plan = ctx.plan
        query, keys, values, out, lse = ctx.saved_tensors
        times = plan.heads // plan.kv_heads
        q, do = heads_first(query).to(out.dtype), heads_first(grad_out).to(out.dtype)
        delta = (do * out).sum(-1)
        dq = torch.zeros_like(q)
        dk = torch.zeros(keys.shape, dtype=out.dtype, device=keys.device)
        dv = torch.zeros(values.shape, dtype=out.dtype, device=values.device)
        for start, stop in plan.tiles():
            m = plan.mask(start, stop)
            k = heads_first(keys[:, start:stop], times).to(out.dtype)
            v = heads_first(values[:, start:stop], times).to(out.dtype)
            s = (q @ k.mT * plan.scale).masked_fill(m == 0, -torch.inf)
            p = m * torch.exp(s - lse[..., None])
            ds = p * (do @ v.mT - delta[..., None]) * plan.scale
            dq += ds @ k
            dk[:, start:stop] = (ds.mT @ q).unflatten(1, (plan.kv_heads, times)).sum(2).transpose(1, 2)
            dv[:, start:stop] = (p.mT @ do).unflatten(1, (plan.kv_heads, times)).sum(2).transpose(1, 2)
        grads = [None] * 4
        if ctx.needs_input_grad[0]:
            grads[0] = dq.transpose(1, 2).to(query.dtype)
        if ctx.needs_input_grad[1]:
            grads[1] = plan.reduce(dk).to(query.dtype)
        if ctx.needs_input_grad[2]:
            grads[2] = plan.reduce(dv).to(query.dtype)
        return tuple(grads)


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None):
    group = dist.group.WORLD if group is None else group
    error, summary = None, None
    try:
        check_types(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length)
        segment_lengths, dilation_rates = tuple(segment_lengths), tuple(dilation_rates)
        check_values(query, key, value, segment_lengths, dilation_rates, scale, sequence_length,
                     dist.get_rank(group), dist.get_world_size(group))
        summary = (query.shape[0], query.shape[2], tuple(key.shape[2:]), value.shape[3], str(query.dtype),
                   segment_lengths, dilation_rates, is_causal, scale, sequence_length,
                   sequence_length is None and query.shape[1])
    except (TypeError, ValueError) as e:
        error = e
    answers = [None] * dist.get_world_size(group)
    grads = summary and tuple(torch.is_grad_enabled() and x.requires_grad for x in (query, key, value))
    dist.all_gather_object(answers, (error and repr(error), summary, grads), group=group)
    if error:
        raise error
    errors = {r: text for r, (text, _, _) in enumerate(answers) if text}
    if errors:
        raise ValueError(f"bad arguments on other ranks: {errors}")
    if len({summary for _, summary, _ in answers}) != 1:
        raise ValueError(f"different arguments on different ranks: {[summary for _, summary, _ in answers]}")

    # needed on one rank, needed on all: the reduce of the backward is a collective
    needed = [any(column) for column in zip(*(grads for _, _, grads in answers))]
    query, key, value = [x.detach().requires_grad_() if need and not x.requires_grad else x
                         for x, need in zip([query, key, value], needed)]
    n = query.shape[1] * len(answers) if sequence_length is None else sequence_length
    if scale is None:
        scale = query.shape[3] ** -0.5
    plan = Plan(n, query.shape[2], key.shape[2], tuple(zip(segment_lengths, dilation_rates)), is_causal, scale, group,
                query.device)
    return OnlineAttention.apply(query, key, value, plan)


def check_types(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length):
    def expect(ok, text):
        if not ok:
            raise TypeError(text)

    expect(all(isinstance(x, torch.Tensor) for x in (query, key, value)), "query, key, value: Tensor")
    expect(all(x.is_floating_point() for x in (query, key, value)), "query, key, value: floating point")
    expect(query.dtype == key.dtype == value.dtype, "query, key, value: one dtype")
    for numbers in (segment_lengths, dilation_rates):
        expect(isinstance(numbers, (list, tuple)), "segment_lengths, dilation_rates: list or tuple")
        expect(all(isinstance(x, int) and x is not True and x is not False for x in numbers),
               "segment_lengths, dilation_rates: of int")
    expect(isinstance(is_causal, bool), "is_causal: bool")
    expect(scale is None or (isinstance(scale, (int, float)) and not isinstance(scale, bool)), "scale: float or None")
    expect(sequence_length is None or (isinstance(sequence_length, int) and not isinstance(sequence_length, bool)),
           "sequence_length: int or None")


def check_values(query, key, value, segment_lengths, dilation_rates, scale, sequence_length, rank, size):
    def expect(ok, text):
        if not ok:
            raise ValueError(text)

    expect(query.dim() == key.dim() == value.dim() == 4, "query, key, value: 4 dimensions")
    expect(query.device == key.device == value.device, "query, key, value: one device")
    expect(query.shape[0] == key.shape[0] == value.shape[0], "query, key, value: one batch size")
    expect(query.shape[1] == key.shape[1] == value.shape[1], "query, key, value: one length")
    expect(query.shape[3] == key.shape[3] != 0, "query, key: one head_dim, not 0")
    expect(key.shape[2] == value.shape[2] != 0, "key, value: one number of heads, not 0")
    expect(query.shape[2] % key.shape[2] == 0, "query: a multiple of key's heads")
    expect(len(segment_lengths) == len(dilation_rates) != 0, "segment_lengths, dilation_rates: one length, not 0")
    expect(min(segment_lengths) > 0 and min(dilation_rates) > 0, "segment_lengths, dilation_rates: positive")
    expect(scale is None or abs(scale) < float("inf"), "scale: finite")
    if sequence_length is not None:
        expect(sequence_length >= 0, "sequence_length: not negative")
        expect(query.shape[1] == sequence_length // size + (rank < sequence_length % size),
               "sequence_length: its share is the local length")
