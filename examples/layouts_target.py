"""Adapters for other layouts of tensors: heads first, packed, replicated. Copy the one that fits; put your function in.

python -m attention_gate gate examples/layouts_target.py:heads_first
"""

from __future__ import annotations

import itertools

import all_gather_target
import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import attention_gate

# In place of your library: one dense attention, in the layouts that libraries have.


def ring_heads_first(query, key, value, causal, scale, length, group):
    """(batch, heads, rows, dim) in and out."""
    rows_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    out = all_gather_target.attend(*rows_first, is_causal=causal, scale=scale, sequence_length=length, group=group)
    return out.transpose(1, 2)


def ring_packed(qkv, causal, scale, length, group):
    """(batch, rows, 3, heads, dim) in, (batch, rows, heads, dim) out."""
    return all_gather_target.attend(*qkv.unbind(2), is_causal=causal, scale=scale, sequence_length=length, group=group)


def ring_tokens(query, key, value, starts, causal, scale, length, group):
    """(tokens, heads, dim) in and out: this rank's rows of several sequences, one behind the other."""
    outs = []
    for start, end in itertools.pairwise(starts):
        rows = (tensor[None, start:end] for tensor in (query, key, value))
        outs.append(
            all_gather_target.attend(*rows, is_causal=causal, scale=scale, sequence_length=length, group=group)[0]
        )
    return torch.cat(outs)


def replicated_attention(query, key, value, causal, scale):
    """(batch, all rows, heads, dim) in and out, on every rank."""
    heads_first = [tensor.transpose(1, 2) for tensor in (query, key, value)]
    rows, grouped = query.shape[1], query.shape[2] != key.shape[2]
    mask = torch.ones(rows, rows, dtype=torch.bool, device=query.device).tril() if causal else None
    with sdpa_kernel(SDPBackend.MATH):
        out = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2)


# The adapters. Views and indexing are all they need: autograd takes the gradients back through them.


def attend_heads_first(query, key, value, *, is_causal, scale, sequence_length, group, **_):
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    return ring_heads_first(*heads_first, is_causal, scale, sequence_length, group).transpose(1, 2)


def attend_packed(query, key, value, *, is_causal, scale, sequence_length, group, **_):
    return ring_packed(torch.stack((query, key, value), dim=2), is_causal, scale, sequence_length, group)


def attend_tokens(query, key, value, *, is_causal, scale, sequence_length, group, **_):
    batch, rows = query.shape[:2]
    tokens = (tensor.flatten(0, 1) for tensor in (query, key, value))
    starts = [rows * number for number in range(batch + 1)]
    return ring_tokens(*tokens, starts, is_causal, scale, sequence_length, group).unflatten(0, (batch, rows))


def attend_replicated(query, key, value, *, is_causal, scale, sequence_length, group, **_):
    """What returns only this rank's rows of the whole goes without own_rows."""
    whole = attention_gate.gather_rows(query, key, value, sequence_length=sequence_length, group=group)
    return attention_gate.own_rows(replicated_attention(*whole, is_causal, scale), group=group)


DENSE = {"branches": "dense", "refusals": False}
BECAUSE = {"branches": "it is dense attention", "refusals": "arguments are not checked"}

heads_first = attention_gate.Target(attend=attend_heads_first, **DENSE, because=BECAUSE)
packed = attention_gate.Target(
    attend=attend_packed,
    **DENSE,
    grouped_query=False,
    value_dim=False,
    because=BECAUSE | {"grouped_query": "query, key and value in one tensor", "value_dim": "the same"},
)
tokens = attention_gate.Target(attend=attend_tokens, **DENSE, because=BECAUSE)
replicated = attention_gate.Target(
    attend=attend_replicated, **DENSE, replicated=True, because=BECAUSE | {"replicated": "rows are gathered for it"}
)
