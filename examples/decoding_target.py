"""Decoding over shards of keys, in torch alone: every rank has all queries, and parts are merged by their lse.

python -m attention_gate gate examples/decoding_target.py:target
python -m attention_gate gate examples/decoding_target.py:as_in_vllm

The second merges by the formula of vLLM's decode context parallelism (vllm/v1/attention/ops/common.py): an lse that is
NaN or +inf is read as -inf, and so is the logarithm of a factor.
"""

from __future__ import annotations

import torch
import torch.distributed as dist

import attention_gate


def _partial(query, key, value, is_causal, scale, sequence_length, group, interleave):
    """This rank's output (batch, heads, queries, dim) and its lse, over its own keys."""
    rank, size = (dist.get_rank(group), dist.get_world_size(group)) if dist.is_initialized() else (0, 1)
    local = torch.arange(key.shape[1], device=key.device)
    positions = (local // interleave * size + rank) * interleave + local % interleave
    length = key.shape[1] * size if sequence_length is None else sequence_length
    places = torch.arange(length - query.shape[1], length, device=key.device)
    wide = torch.promote_types(query.dtype, torch.float32)
    repeats = query.shape[2] // key.shape[2]
    q, k, v = (rows.to(wide).transpose(1, 2) for rows in (query, key, value))
    k, v = (rows.repeat_interleave(repeats, dim=1) for rows in (k, v))
    scores = q @ k.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(positions > places[:, None], -torch.inf)
    lse = scores.logsumexp(-1) if key.shape[1] else scores.new_full(scores.shape[:3], -torch.inf)
    weights = torch.exp(scores - lse.masked_fill(lse.isneginf(), 0.0)[..., None])
    return weights @ v, lse


def _gathered(part, group):
    """What every rank found (ranks, …)."""
    parts = [torch.empty_like(part) for _ in range(dist.get_world_size(group) if dist.is_initialized() else 1)]
    if len(parts) == 1:
        return part[None]
    dist.all_gather(parts, part.contiguous(), group=group)
    return torch.stack(parts)


def attend(query, key, value, *, is_causal, scale, sequence_length, group, interleave=1, return_lse=False, **_):
    out, lse = _partial(query, key, value, is_causal, scale, sequence_length, group, interleave)
    outs, lses = _gathered(out, group), _gathered(lse, group)
    lse = lses.logsumexp(0)
    weights = torch.exp(lses - lse.masked_fill(lse.isneginf(), 0.0))
    out = (outs * weights[..., None]).sum(0).transpose(1, 2).to(query.dtype)
    return (out, lse) if return_lse else out


def attend_as_in_vllm(
    query, key, value, *, is_causal, scale, sequence_length, group, interleave=1, return_lse=False, **_
):
    out, own = _partial(query, key, value, is_causal, scale, sequence_length, group, interleave)
    lses = _gathered(own, group)
    lses = lses.masked_fill(lses.isnan() | lses.isposinf(), -torch.inf)
    top = lses.amax(0)
    top = top.masked_fill(top.isneginf(), 0.0)
    lse = torch.log(torch.exp(lses - top).sum(0)) + top
    gap = own - lse
    factor = torch.exp(gap.masked_fill(gap.isnan() | gap.isposinf(), -torch.inf))
    out = torch.where(factor[..., None] == 0.0, 0.0, out * factor[..., None])
    if dist.is_initialized() and dist.get_world_size(group) > 1:
        dist.all_reduce(out, group=group)
    out = out.transpose(1, 2).to(query.dtype)
    return (out, lse) if return_lse else out


DECODING = {"layout": "interleaved", "queries": "replicated", "gradients": False, "terms": ("queries",)}
LIMITS = {"branches": "dense", "refusals": False}
BECAUSE = {"refusals": "left out to keep the example short", "gradients": "decoding has none"}

target = attention_gate.Target(attend=attend, **DECODING, **LIMITS, because=BECAUSE)
as_in_vllm = attention_gate.Target(attend=attend_as_in_vllm, **DECODING, **LIMITS, because=BECAUSE)
