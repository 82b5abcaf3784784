"""Dilated attention on DTensor: keys and values are a DTensor sharded along the sequence, redistributed to replicated;
the gradient of the replicated tensor is declared Partial, so DTensor reduce-scatters it. The attention itself is
scaled_dot_product_attention with the log of the key counts as its mask. Default group and sub-groups.

Limits:
- DTensor's own uneven shards follow torch.chunk, not torch.tensor_split, so shards are padded to even ones first.
- All keys and a heads x local x total mask are in memory at once.
- Tried on CPU with gloo only.
"""
import math

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Replicate, Shard


def replicate_sequence(local, lengths, mesh):
    """This rank's (batch, length, heads, dim) -> everybody's, (batch, sum(lengths), heads, dim)."""
    even = max(1, *lengths)
    local = F.pad(local, (0, 0, 0, 0, 0, even - local.shape[1]))
    sharded = DTensor.from_local(local, mesh, [Shard(1)], run_check=False)
    replicated = sharded.redistribute(placements=[Replicate()]).to_local(grad_placements=[Partial()])
    parts = replicated.split(even, dim=1)
    return torch.cat([part[:, :length] for part, length in zip(parts, lengths)], dim=1)


def log_counts(q_positions, k_positions, num_heads, branches, is_causal, dtype):
    mask = torch.zeros(num_heads, q_positions.numel(), k_positions.numel(), dtype=dtype, device=q_positions.device)
    for head in range(num_heads):
        for w, r in branches:
            q_in = (q_positions % w) % r == head % r
            k_in = (k_positions % w) % r == head % r
            mask[head] += torch.outer(q_in, k_in) & ((q_positions // w)[:, None] == (k_positions // w)[None, :])
    if is_causal:
        mask *= (q_positions[:, None] >= k_positions[None, :])
    return mask.log()


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal=False, scale=None, sequence_length=None,
           group=None):
    if group is None:
        group = dist.group.WORLD
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    needs_grad = _compare_arguments(
        group, query=query, key=key, value=value, segment_lengths=segment_lengths, dilation_rates=dilation_rates,
        is_causal=is_causal, scale=scale, sequence_length=sequence_length)
    if needs_grad["query"] and not query.requires_grad:
        query = query.detach().requires_grad_()
    if needs_grad["key"] and not key.requires_grad:
        key = key.detach().requires_grad_()
    if needs_grad["value"] and not value.requires_grad:
        value = value.detach().requires_grad_()

    total = query.shape[1] * size if sequence_length is None else sequence_length
    shards = torch.arange(total, device=query.device).tensor_split(size)
    lengths = [shard.numel() for shard in shards]
    dtype = torch.float64 if query.dtype == torch.float64 else torch.float32

    mesh = DeviceMesh.from_group(group, query.device.type)
    keys_and_values = torch.cat([key.to(dtype), value.to(dtype)], dim=-1)
    keys_and_values = replicate_sequence(keys_and_values, lengths, mesh)
    k, v = keys_and_values.split([key.shape[-1], value.shape[-1]], dim=-1)

    heads, groups = query.shape[2], query.shape[2] // key.shape[2]
    q = query.to(dtype).transpose(1, 2)
    k = k.transpose(1, 2).repeat_interleave(groups, dim=1)
    v = v.transpose(1, 2).repeat_interleave(groups, dim=1)
    if q.shape[2] == 0:  # no rows here, but the backward must still take part in the reduce-scatter
        out = torch.einsum("bhqk,bhke->bhqe", torch.einsum("bhqd,bhkd->bhqk", q, k), v)
    else:
        mask = log_counts(shards[rank], torch.arange(total, device=q.device), heads,
                          list(zip(segment_lengths, dilation_rates)), is_causal, dtype)
        sees_nothing = (mask == -math.inf).all(-1, keepdim=True)
        mask = mask.masked_fill(sees_nothing, 0.0)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask[None].expand(q.shape[0], -1, -1, -1), scale=scale)
        out = out.masked_fill(sees_nothing, 0.0)
    return out.transpose(1, 2).to(query.dtype)


def _validate(query, key, value, segment_lengths, dilation_rates, is_causal, scale, sequence_length, size, rank):
    for name, x in dict(query=query, key=key, value=value).items():
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"expected {name} to be a Tensor but got {type(x)}")
        if not torch.is_floating_point(x):
            raise TypeError(f"expected {name} to be floating point but got {x.dtype}")
        if x.dim() != 4:
            raise ValueError(f"expected {name} to have 4 dimensions but got shape {tuple(x.shape)}")
    if key.dtype != query.dtype or value.dtype != query.dtype:
        raise ValueError(f"expected one dtype but got {query.dtype}, {key.dtype}, {value.dtype}")
    if key.device != query.device or value.device != query.device:
        raise ValueError(f"expected one device but got {query.device}, {key.device}, {value.device}")
    b, l, h, d = query.shape
    if key.shape[0] != b or value.shape[0] != b or key.shape[1] != l or value.shape[1] != l:
        raise ValueError("expected the same batch and length in query, key and value")
    if key.shape[3] != d or d == 0:
        raise ValueError("expected the same positive head_dim in query and key")
    if key.shape[2] != value.shape[2] or key.shape[2] == 0 or h % key.shape[2] != 0:
        raise ValueError("expected the same kv_heads in key and value, and heads to be a multiple of it")
    for name, entries in (("segment_lengths", segment_lengths), ("dilation_rates", dilation_rates)):
        if isinstance(entries, (str, bytes)) or not hasattr(entries, "__len__"):
            raise TypeError(f"expected {name} to be a sequence of ints but got {entries!r}")
        if len(entries) == 0:
            raise ValueError(f"expected {name} not to be empty")
        for entry in entries:
            if not isinstance(entry, int) or isinstance(entry, bool):
                raise TypeError(f"expected {name} to be a sequence of ints but got {entry!r} in it")
            if entry < 1:
                raise ValueError(f"expected {name} to be positive but got {entry}")
    if len(segment_lengths) != len(dilation_rates):
        raise ValueError("expected as many segment_lengths as dilation_rates")
    if is_causal is not True and is_causal is not False:
        raise TypeError(f"expected is_causal to be a bool but got {is_causal!r}")
    if scale is not None and (not isinstance(scale, (int, float)) or isinstance(scale, bool)):
        raise TypeError(f"expected scale to be a number but got {scale!r}")
    if scale is not None and not math.isfinite(scale):
        raise ValueError(f"expected scale to be finite but got {scale!r}")
    if sequence_length is not None:
        if not isinstance(sequence_length, int) or isinstance(sequence_length, bool):
            raise TypeError(f"expected sequence_length to be an int but got {sequence_length!r}")
        if sequence_length < 0:
            raise ValueError(f"expected sequence_length not to be negative but got {sequence_length}")
        expected = torch.empty(sequence_length, device="meta").tensor_split(size)[rank].numel()
        if l != expected:
            raise ValueError(f"expected {expected} of {sequence_length} rows on rank {rank} of {size} but got {l}")


def _compare_arguments(group, **arguments):
    """Raises on all ranks if the arguments are wrong on one or differ between any."""
    size, rank = dist.get_world_size(group), dist.get_rank(group)
    card = dict(rank=rank, error=None)
    try:
        _validate(**arguments, size=size, rank=rank)
    except (ValueError, TypeError) as error:
        card["error"] = error
    else:
        q, k, v = arguments["query"], arguments["key"], arguments["value"]
        card["tensors"] = (q.dtype, q.shape[0], q.shape[2:], k.shape[2:], v.shape[2:])
        card["options"] = (tuple(arguments["segment_lengths"]), tuple(arguments["dilation_rates"]),
                           arguments["is_causal"], arguments["scale"], arguments["sequence_length"])
        card["length"] = q.shape[1] if arguments["sequence_length"] is None else None
        card["grad"] = {name: arguments[name].requires_grad and torch.is_grad_enabled()
                        for name in ("query", "key", "value")}
    cards = [None] * size
    dist.all_gather_object(cards, card, group=group)
    failed = [c for c in cards if c["error"] is not None]
    if failed:
        raise type(failed[0]["error"])(f"rank {failed[0]['rank']}: {failed[0]['error']}")
    for what in ("tensors", "options", "length"):
        if len({c[what] for c in cards}) > 1:
            raise ValueError(f"expected the same {what} on all ranks but got {[c[what] for c in cards]}")
    return {name: any(c["grad"][name] for c in cards) for name in ("query", "key", "value")}
