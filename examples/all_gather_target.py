"""scaled_dot_product_attention behind an all-gather of keys and values: context parallelism in its plainest form.

python -m attention_gate gate examples/all_gather_target.py:target
"""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

import attention_gate


def attend(query, key, value, **options):
    """The kernel that is the definition, operation by operation."""
    with sdpa_kernel(SDPBackend.MATH):
        return attend_fused(query, key, value, **options)


def attend_fused(query, key, value, *, is_causal=False, scale=None, sequence_length=None, group=None, **_):
    """The kernel that torch chooses. On a CPU it returns 0 for a query all of whose keys are NaN."""
    world_size, rank = dist.get_world_size(group), dist.get_rank(group)
    length = sequence_length if sequence_length is not None else query.shape[1] * world_size
    counts = [len(part) for part in torch.arange(length).tensor_split(world_size)]
    keys, values = attention_gate.gather_rows(key, value, sequence_length=length, group=group)
    mask = None
    if is_causal:
        own = torch.arange(length, device=query.device).split(counts)[rank]
        mask = torch.arange(length, device=query.device) <= own[:, None]
    heads_first = (tensor.transpose(1, 2) for tensor in (query, keys, values))
    out = F.scaled_dot_product_attention(
        *heads_first, attn_mask=mask, scale=scale, enable_gqa=query.shape[2] != key.shape[2]
    )
    return out.transpose(1, 2)


LIMITS = {"branches": "dense", "refusals": False}
BECAUSE = {"branches": "it is dense attention", "refusals": "arguments are not checked"}

target = attention_gate.Target(attend=attend, **LIMITS, because=BECAUSE)
fused = attention_gate.Target(attend=attend_fused, **LIMITS, because=BECAUSE)
