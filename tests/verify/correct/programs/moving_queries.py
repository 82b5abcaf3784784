"""Cross-attention with keys that stay at home: queries visit every rank, and parts of their results come back.

Each rank attends all queries to its own keys. Outputs are averaged by their denominators on the queries' rank. Backward,
queries, output gradients and the two numbers of each row visit again: keys and values find their gradients at home.
Limits: dense attention; all queries on every rank at a time.
"""
import torch
import torch.distributed as dist


class Plan:
    def __init__(self, keys, queries, documents, is_causal, scale, group):
        self.group = group
        alone = not dist.is_initialized()
        self.rank, self.size = (0, 1) if alone else (dist.get_rank(group), dist.get_world_size(group))
        self.scale = scale
        self.counts = [queries // self.size + (r < queries % self.size) for r in range(self.size)]
        first = sum(keys // self.size + (r < keys % self.size) for r in range(self.rank))
        self.mine = slice(sum(self.counts[:self.rank]), sum(self.counts[:self.rank + 1]))
        own = keys // self.size + (self.rank < keys % self.size)
        seen = torch.zeros(queries, keys, dtype=torch.bool)
        q0 = k0 = 0
        for q, k in documents:
            block = torch.ones(q, k, dtype=torch.bool)
            if is_causal:
                block = torch.arange(k)[None] - torch.arange(q)[:, None] <= k - q
            seen[q0:q0 + q, k0:k0 + k] = block
            q0, k0 = q0 + q, k0 + k
        self.hidden = ~seen[:, first:first + own]

    def everywhere(self, rows):
        """(batch, heads, own queries, width) of all ranks, one after the other."""
        if self.size == 1:
            return rows
        longest = max(self.counts)
        padded = rows.new_zeros(*rows.shape[:2], longest, rows.shape[3])
        padded[:, :, :rows.shape[2]] = rows
        parts = [torch.empty_like(padded) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self.group)
        return torch.cat([part[:, :, :count] for part, count in zip(parts, self.counts)], 2)

    def home(self, rows):
        """Every rank's part for this rank's queries (ranks, batch, heads, own queries, width)."""
        if self.size == 1:
            return rows[None]
        outgoing = [piece.contiguous() for piece in rows.split(self.counts, 2)]
        shape = [*rows.shape]
        shape[2] = self.counts[self.rank]
        flat = rows.new_empty(self.size * rows.numel() // max(rows.shape[2], 1) * shape[2])
        dist.all_to_all_single(
            flat, torch.cat([piece.flatten() for piece in outgoing]), [flat.numel() // self.size] * self.size,
            [piece.numel() for piece in outgoing], group=self.group)
        return flat.view(self.size, *shape)


class Visit(torch.autograd.Function):
    @staticmethod
    def forward(ctx, q, k, v, plan):
        groups = q.shape[1] // k.shape[1]
        every = plan.everywhere(q)
        K, V = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        s = (plan.scale * every @ K.mT).masked_fill(plan.hidden, -torch.inf)
        lse = torch.logsumexp(s, -1) if s.shape[-1] else s.new_full(s.shape[:3], -torch.inf)
        part = torch.exp(s - lse.masked_fill(lse == -torch.inf, 0.0)[..., None]) @ V
        parts = plan.home(torch.cat([part, lse[..., None]], -1))
        outs, lses = parts[..., :-1], parts[..., -1]
        lse = torch.logsumexp(lses, 0)
        shares = torch.exp(lses - lse.masked_fill(lse == -torch.inf, 0.0))
        out = (outs * shares[..., None]).sum(0)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.plan = plan
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    def backward(ctx, grad, _):
        q, k, v, out, lse = ctx.saved_tensors
        plan = ctx.plan
        groups = q.shape[1] // k.shape[1]
        numbers = torch.stack([lse.masked_fill(lse == -torch.inf, 0.0), (grad * out).sum(-1)], -1)
        every = plan.everywhere(torch.cat([q, grad, numbers], -1))
        Q, dO, L, D = every.split([q.shape[-1], grad.shape[-1], 1, 1], -1)
        K, V = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        P = torch.exp((plan.scale * Q @ K.mT).masked_fill(plan.hidden, -torch.inf) - L)
        dS = plan.scale * P * (dO @ V.mT - D)
        dQ = plan.home(dS @ K).sum(0)
        dK, dV = dS.mT @ Q, P.mT @ dO
        return dQ, dK.unflatten(1, (-1, groups)).sum(2), dV.unflatten(1, (-1, groups)).sum(2), None


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None, return_lse=False, document_lengths=None, query_length=None, query_lengths=None):
    size = dist.get_world_size(group) if dist.is_initialized() else 1
    keys = sequence_length if sequence_length is not None else size * key.shape[1]
    queries = query_length if query_length is not None else keys
    documents = [(queries, keys)]
    if document_lengths is not None:
        documents = list(zip(query_lengths or document_lengths, document_lengths))
    plan = Plan(keys, queries, documents, is_causal, query.shape[-1] ** -0.5 if scale is None else scale, group)
    acc = torch.float64 if query.dtype == torch.float64 else torch.float32
    out, lse = Visit.apply(*(t.to(acc).transpose(1, 2) for t in (query, key, value)), plan)
    out = out.transpose(1, 2).to(query.dtype)
    return (out, lse) if return_lse else out
