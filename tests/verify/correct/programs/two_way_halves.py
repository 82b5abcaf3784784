"""A ring in both directions: each shard of keys and values is cut into halves that travel against each other.

The first half of every shard goes to the next rank at each hop, the second half to the previous one, so both directions
of a link are busy. A rank folds each half that it holds into a running (top, mass, sum) per row: the largest score so
far, the softmax denominator and the numerator relative to it. The backward pass sends the halves round once more and
recomputes the weights from the lse; the gradients of a half follow it, and one more hop takes them home.
Queries may be fewer or more than keys, also in each packed document; they are the last positions of their document.
"""

from itertools import accumulate

import torch
import torch.distributed as dist


def bounds(total, parts):
    """Where torch.tensor_split cuts: part r is [bounds[r], bounds[r + 1])."""
    small, longer = divmod(total, parts)
    return [r * small + min(r, longer) for r in range(parts + 1)]


class Ring:
    """The group, and which rows of the sequence a half has that started at a rank; half 0 moves up, half 1 down."""

    def __init__(self, group, total_keys):
        self.group, self.size, self.rank = group, dist.get_world_size(group), dist.get_rank(group)
        self.starts = bounds(total_keys, self.size)

    def rows(self, half, hop):
        """First and last (exclusive) position of the half that this rank holds after so many hops."""
        origin = (self.rank + (hop if half else -hop)) % self.size
        first, end = self.starts[origin], self.starts[origin + 1]
        middle = (first + end + 1) // 2
        return (middle, end) if half else (first, middle)

    def pass_on(self, halves, hop):
        """Sends both halves' tensors one rank further; returns what arrives, as after ``hop`` hops, and the handles."""
        up, down = (dist.get_global_rank(self.group or dist.group.WORLD, (self.rank + d) % self.size) for d in (1, -1))
        operations, arriving = [], []
        for half, (tensors, target) in enumerate(zip(halves, (up, down))):
            operations += [dist.P2POp(dist.isend, t, target, self.group) for t in tensors if t.numel()]
        for half, (tensors, source) in enumerate(zip(halves, (down, up))):
            first, end = self.rows(half, hop)
            arriving.append([t.new_empty(t.shape[0], end - first, *t.shape[2:]) for t in tensors])
            operations += [dist.P2POp(dist.irecv, t, source, self.group) for t in arriving[-1] if t.numel()]
        return arriving, dist.batch_isend_irecv(operations) if operations else []


def query_places(document_lengths, query_lengths, total_keys, total_queries):
    """Of each query its position among the keys and its document's first and last (exclusive) key."""
    documents = [total_keys] if document_lengths is None else document_lengths
    counts = query_lengths or ([total_queries] if document_lengths is None else documents)
    places = []
    for keys, queries, end in zip(documents, counts, accumulate(documents)):
        places += [(end - queries + number, end - keys, end) for number in range(queries)]
    places += [(0, 0, 0)] * (total_queries - len(places))
    return torch.tensor(places, dtype=torch.int64).reshape(-1, 3)


def block_scores(query, key, scale, places, first, is_causal):
    """Scores (batch, kv_heads, heads per kv head, queries, keys of the block); -inf where a query does not see a key."""
    position, start, end = places.to(query.device)[..., None].unbind(1)
    keys = torch.arange(first, first + key.shape[1], device=query.device)
    seen = (keys >= start) & (keys < end)
    if is_causal:
        seen &= keys <= position
    return (torch.einsum("bikgd,bjkd->bkgij", query, key) * scale).masked_fill(~seen, -torch.inf)


def finite_or_zero(top):
    return top.masked_fill(top == -torch.inf, 0.0)


def fold(state, scores, value):
    """Takes one more block into the running (top, mass, sum)."""
    top, mass, total = state
    higher = torch.maximum(top, scores.amax(-1, keepdim=True))
    shrink, weights = (top - finite_or_zero(higher)).exp(), (scores - finite_or_zero(higher)).exp()
    return higher, mass * shrink + weights.sum(-1, keepdim=True), total * shrink + weights @ value.movedim(1, 2)[:, :, None]


class HalvesRing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, query, key, value, ring, places, scale, is_causal):
        wide = torch.promote_types(query.dtype, torch.float32)
        grouped = query.to(wide).unflatten(2, (key.shape[2], -1))
        rows = grouped.permute(0, 2, 3, 1, 4).shape[:-1]
        state = grouped.new_full((*rows, 1), -torch.inf), grouped.new_zeros(*rows, 1), grouped.new_zeros(*rows, value.shape[-1])
        halves = HalvesRing.cut(key, value)
        for hop in range(ring.size):
            arriving, handles = ring.pass_on(halves, hop + 1) if hop + 1 < ring.size else (None, [])
            for half, (block_key, block_value) in enumerate(halves):
                if block_key.shape[1]:
                    first, _ = ring.rows(half, hop)
                    scores = block_scores(grouped, block_key.to(wide), scale, places, first, is_causal)
                    state = fold(state, scores, block_value.to(wide))
            for handle in handles:
                handle.wait()
            halves = arriving
        top, mass, total = state
        lse = (mass.log() + finite_or_zero(top)).squeeze(-1)
        out = (total / mass.masked_fill(mass == 0, 1.0)).permute(0, 3, 1, 2, 4).flatten(2, 3).contiguous()
        ctx.save_for_backward(query, key, value, out, lse)
        ctx.rest = ring, places, scale, is_causal
        narrow, flat = out.to(query.dtype, copy=True), lse.flatten(1, 2).clone()
        ctx.mark_non_differentiable(flat)
        return narrow, flat

    @staticmethod
    def cut(*tensors):
        """The two halves of a shard, each a list of contiguous tensors."""
        return [list(half) for half in zip(*([t.contiguous() for t in t.tensor_split(2, dim=1)] for t in tensors))]

    @staticmethod
    def backward(ctx, grad_out, _):
        query, key, value, out, lse = ctx.saved_tensors
        ring, places, scale, is_causal = ctx.rest
        grouped, upstream, result = (t.to(lse.dtype).unflatten(2, (key.shape[2], -1)) for t in (query, grad_out, out))
        delta = (upstream * result).sum(-1).permute(0, 2, 3, 1)[..., None]
        grad_query = torch.zeros_like(grouped)
        halves = HalvesRing.cut(key, value)
        grads = [[torch.zeros_like(t, dtype=lse.dtype) for t in half] for half in halves]
        for hop in range(ring.size):
            arriving, handles = ring.pass_on(halves, hop + 1) if hop + 1 < ring.size else (None, [])
            for half, (block, (grad_key, grad_value)) in enumerate(zip(halves, grads)):
                block_key, block_value = (t.to(lse.dtype) for t in block)
                scores = block_scores(grouped, block_key, scale, places, ring.rows(half, hop)[0], is_causal)
                weights = (scores - finite_or_zero(lse)[..., None]).exp()
                grad_scores = weights * (torch.einsum("bikgd,bjkd->bkgij", upstream, block_value) - delta) * scale
                grad_value += torch.einsum("bkgij,bikgd->bjkd", weights, upstream)
                grad_key += torch.einsum("bkgij,bikgd->bjkd", grad_scores, grouped)
                grad_query += torch.einsum("bkgij,bjkd->bikgd", grad_scores, block_key)
            moved, more = ring.pass_on(grads, hop + 1) if ring.size > 1 else (grads, [])
            for handle in [*handles, *more]:
                handle.wait()
            halves, grads = arriving, moved
        grad_key, grad_value = (torch.cat(parts, dim=1).to(key.dtype) for parts in zip(*grads))
        return grad_query.flatten(2, 3).to(query.dtype), grad_key, grad_value, None, None, None, None


def attend(
    query, key, value, *, is_causal=False, scale=None, sequence_length=None, query_length=None, document_lengths=None,
    query_lengths=None, group=None, return_lse=False, **_,
):
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    total_keys = size * key.shape[1] if sequence_length is None else sequence_length
    total_queries = total_keys if query_length is None else query_length
    cuts = bounds(total_queries, size)
    places = query_places(document_lengths, query_lengths, total_keys, total_queries)[cuts[rank] : cuts[rank + 1]]
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    with torch.autocast(query.device.type, enabled=False):
        out, lse = HalvesRing.apply(query, key, value, Ring(group, total_keys), places, scale, is_causal)
    return (out, lse) if return_lse else out
