"""Dilated attention over an all-gather from torch.distributed._functional_collectives, whose autograd sends the
gradients back by reduce-scatter, followed by one dense softmax with counted keys.

(torch.distributed.nn.functional.all_gather is not used: its backward takes group ranks for global ones under gloo and
raises on subgroups.)

Limits: all keys and a heads x local x total score matrix are in memory at once; tried on CPU with gloo only.
"""
import math

import torch
import torch.distributed as dist
import torch.distributed._functional_collectives as funcol

# renamed in newer releases of torch
_all_gather = getattr(funcol, "all_gather_single_autograd", None) or funcol.all_gather_tensor_autograd


def gather_sequence(x, n, group):
    """(batch, local, ...) on each rank -> (batch, n, ...) on all. Shards are padded to one length for the collective."""
    size = dist.get_world_size(group)
    counts = [n // size + (r < n % size) for r in range(size)]
    longest = max(counts)
    padding = x.new_zeros(x.shape[0], longest - x.shape[1], *x.shape[2:])
    x = torch.cat([x, padding], dim=1).transpose(0, 1).contiguous()
    x = _all_gather(x, 0, group)
    if isinstance(x, funcol.AsyncCollectiveTensor):
        x = x.wait()
    keep = [r * longest + i for r, count in enumerate(counts) for i in range(count)]
    return x[torch.tensor(keep, dtype=torch.long, device=x.device)].transpose(0, 1)


def multiplicity(q_pos, k_pos, heads, segment_lengths, dilation_rates, is_causal):
    """M[h, i, j], all branches at once."""
    w = torch.tensor(segment_lengths, device=q_pos.device).view(-1, 1, 1)
    r = torch.tensor(dilation_rates, device=q_pos.device).view(-1, 1, 1)
    h = torch.arange(heads, device=q_pos.device).view(1, -1, 1)
    q_selected = (q_pos % w) % r == h % r  # (branches, heads, queries)
    k_selected = (k_pos % w) % r == h % r
    q_segment, k_segment = q_pos // w, k_pos // w  # (branches, 1, length)
    seen = q_selected[..., :, None] & k_selected[..., None, :] & (q_segment[..., :, None] == k_segment[..., None, :])
    if is_causal:
        seen = seen & (k_pos <= q_pos[:, None])
    return seen.sum(0)


def counted_softmax(scores, M):
    """Softmax over keys that count M times; rows without keys are all zero."""
    if scores.shape[-1] == 0:
        return scores
    top = scores.detach().masked_fill(M == 0, -math.inf).amax(-1, keepdim=True)
    top = top.masked_fill(top == -math.inf, 0.0)
    weights = M * (scores - top).masked_fill(M == 0, -math.inf).exp()
    total = weights.sum(-1, keepdim=True)
    return weights / total.masked_fill(total == 0, 1.0)


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None):
    if group is None:
        group = dist.group.WORLD
    wants_grad = check_arguments(query, key, value, segment_lengths, dilation_rates, is_causal, scale,
                                 sequence_length, group)
    segment_lengths, dilation_rates = list(segment_lengths), list(dilation_rates)
    query, key, value = [x.detach().requires_grad_() if wanted and not x.requires_grad else x
                         for x, wanted in zip((query, key, value), wants_grad)]
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    batch, local, heads, head_dim = query.shape
    n = local * size if sequence_length is None else sequence_length
    if scale is None:
        scale = 1.0 / math.sqrt(head_dim)

    compute_dtype = torch.float64 if query.dtype == torch.float64 else torch.float32
    q = query.to(compute_dtype)
    kv = gather_sequence(torch.cat([key, value], dim=-1).to(compute_dtype), n, group)
    k, v = kv[..., :head_dim], kv[..., head_dim:]
    k = torch.repeat_interleave(k, heads // k.shape[2], dim=2)
    v = torch.repeat_interleave(v, heads // v.shape[2], dim=2)

    k_pos = torch.arange(n, device=q.device)
    q_pos = torch.tensor_split(k_pos, size)[rank]
    M = multiplicity(q_pos, k_pos, heads, segment_lengths, dilation_rates, is_causal)
    scores = torch.matmul(q.transpose(1, 2), k.permute(0, 2, 3, 1)) * scale
    out = torch.matmul(counted_softmax(scores, M), v.transpose(1, 2))
    return out.transpose(1, 2).to(query.dtype)


def problems_with(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, rank, size):
    """A list of (exception class, text), empty if the arguments are fine."""
    found = []
    for name, x in (("query", query), ("key", key), ("value", value)):
        if not isinstance(x, torch.Tensor):
            found.append((TypeError, f"{name} is a {type(x).__name__}, not a tensor"))
        elif not x.dtype.is_floating_point:
            found.append((TypeError, f"{name} has dtype {x.dtype}, which is not floating point"))
        elif x.ndim != 4:
            found.append((ValueError, f"{name} has {x.ndim} dimensions, not 4"))
    if found:
        return found
    if not query.dtype == key.dtype == value.dtype:
        found.append((ValueError, "query, key and value differ in dtype"))
    if not query.device == key.device == value.device:
        found.append((ValueError, "query, key and value differ in device"))
    if not query.shape[:2] == key.shape[:2] == value.shape[:2]:
        found.append((ValueError, "query, key and value differ in batch or length"))
    if query.shape[3] != key.shape[3]:
        found.append((ValueError, "query and key differ in head_dim"))
    if query.shape[3] == 0:
        found.append((ValueError, "head_dim is 0"))
    if key.shape[2] != value.shape[2]:
        found.append((ValueError, "key and value differ in heads"))
    elif key.shape[2] == 0 or query.shape[2] % key.shape[2] != 0:
        found.append((ValueError, "heads is not a multiple of kv_heads"))
    for name, numbers in (("segment_lengths", segment_lengths), ("dilation_rates", dilation_rates)):
        if not isinstance(numbers, (list, tuple)):
            found.append((TypeError, f"{name} is neither a list nor a tuple"))
        elif not all(isinstance(x, int) and not isinstance(x, bool) for x in numbers):
            found.append((TypeError, f"{name} has entries that are not ints"))
        elif not all(x > 0 for x in numbers):
            found.append((ValueError, f"{name} has entries that are not positive"))
    if not found and not len(segment_lengths) == len(dilation_rates) > 0:
        found.append((ValueError, "segment_lengths and dilation_rates do not pair up to at least one branch"))
    if not isinstance(is_causal, bool):
        found.append((TypeError, "is_causal is not a bool"))
    if scale is not None:
        if isinstance(scale, bool) or not isinstance(scale, (int, float)):
            found.append((TypeError, "scale is neither None nor a number"))
        elif math.isnan(scale) or math.isinf(scale):
            found.append((ValueError, "scale is not finite"))
    if sequence_length is not None:
        if isinstance(sequence_length, bool) or not isinstance(sequence_length, int):
            found.append((TypeError, "sequence_length is neither None nor an int"))
        elif sequence_length < 0:
            found.append((ValueError, "sequence_length is negative"))
        elif query.shape[1] != sequence_length // size + (rank < sequence_length % size):
            found.append((ValueError, f"local length {query.shape[1]} does not fit sequence_length {sequence_length}"))
    return found


def check_arguments(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, group):
    """Raise on all ranks or on none. Returns, for each input, whether some rank wants its gradient."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    found = problems_with(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length,
                          rank, size)
    shared, grads = None, None
    if not found:
        shared = [query.dtype, query.shape[0], query.shape[2:], key.shape[2:], value.shape[2:], tuple(segment_lengths),
                  tuple(dilation_rates), is_causal, scale, sequence_length]
        if sequence_length is None:
            shared.append(query.shape[1])
        grads = [x.requires_grad and torch.is_grad_enabled() for x in (query, key, value)]
    reports = [None] * size
    dist.all_gather_object(reports, (found, shared, grads), group=group)
    for r, (found, _, _) in enumerate(reports):
        for kind, text in found:
            raise kind(f"rank {r}: {text}")
    for r, (_, shared, _) in enumerate(reports):
        if shared != reports[0][1]:
            raise ValueError(f"rank {r} was given other arguments than rank 0: {shared} and {reports[0][1]}")
    return [any(grads[i] for _, _, grads in reports) for i in range(3)]
