"""Attentions to be judged in tests: right ones of few capabilities, and wrong ones whose mistake is known."""

import torch
import torch.distributed as dist

import attention_gate
import impls.collective
from attention_gate.verify.target.layouts import contiguous, zigzag


def _rank_and_size(group):
    return (dist.get_rank(group), dist.get_world_size(group)) if dist.is_initialized() else (0, 1)


def _gathered(tensor, positions, length, group):
    """The whole sequence on every rank, without gradients: each rank adds its rows at their places."""
    whole = tensor.new_zeros(tensor.shape[0], length, *tensor.shape[2:])
    whole[:, positions] = tensor.detach()
    dist.all_reduce(whole, group=group)
    return whole


def _dense(query, key, value, layout, *, is_causal=False, scale=None, sequence_length=None, group=None, **_):
    rank, size = _rank_and_size(group)
    length = sequence_length or query.shape[1] * size
    positions = torch.from_numpy(layout(rank, size, length))
    keys, values = (_gathered(x, positions, length, group) for x in (key, value))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    scores = scale * torch.einsum("bihd,bjhd->bhij", query.detach(), keys)
    if is_causal:
        scores = scores.masked_fill(torch.arange(length) > positions[:, None], -torch.inf)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), values)


def dense_attend(query, key, value, **options):
    """Dense attention of contiguous shards, float32, nothing but the forward pass."""
    return _dense(query, key, value, contiguous, **options)


def zigzag_attend(query, key, value, **options):
    """The same, each rank owning two chunks, one from each end."""
    return _dense(query, key, value, zigzag, **options)


_FEW = {"branches": "dense", "gradients": False, "grouped_query": False, "subgroups": False, "refusals": False}
few = attention_gate.Target(attend=dense_attend, dtypes=("float32",), uneven=False, **_FEW)
zigzag_target = attention_gate.Target(attend=zigzag_attend, layout="zigzag", dtypes=("float64",), **_FEW)
zigzag_called_contiguous = attention_gate.Target(attend=zigzag_attend, dtypes=("float64",), uneven=False, **_FEW)


def right(query, key, value, **options):
    """The whole contract."""
    return impls.collective.attend(query, key, value, **options)


def wrong_on_two_ranks(query, key, value, **options):
    """A mistake that one number of ranks has: the output is halved."""
    out = impls.collective.attend(query, key, value, **options)
    return out / 2 if _rank_and_size(options.get("group"))[1] == 2 else out


def last_head_wrong(query, key, value, **options):
    """The last of several heads is doubled from position 3 of rank 1 on, where the sequence has that many."""
    out = impls.collective.attend(query, key, value, **options)
    rank, _ = _rank_and_size(options.get("group"))
    if rank == 1 and out.shape[1] >= 3 and out.shape[2] >= 2:
        factor = torch.ones_like(out)
        factor[:, 2:, -1] = 2.0
        return out * factor
    return out


def causal_ignored(query, key, value, *, is_causal=False, **options):
    """An option that is accepted and ignored."""
    return impls.collective.attend(query, key, value, **options)


def no_key_gradient(query, key, value, **options):
    """The gradient of key never arrives."""
    return impls.collective.attend(query, key.detach(), value, **options)


def raises_on_the_last_rank(query, key, value, **options):
    """One rank raises, without a word to the others."""
    rank, size = _rank_and_size(options.get("group"))
    if rank == size - 1 and size > 1:
        raise RuntimeError(f"nothing works with {query.shape[1]} rows")
    return impls.collective.attend(query, key, value, **options)


def raises_alone(query, key, value, **options):
    """A mistake that needs no other rank."""
    raise RuntimeError("nothing works")


_seen = {"calls": 0}


def wrong_at_random_times(query, key, value, **options):
    """Every seventh call of a process is wrong, whatever its arguments."""
    _seen["calls"] += 1
    out = impls.collective.attend(query, key, value, **options)
    return out + 1.0 if _seen["calls"] % 7 == 0 else out
