"""DeepSpeed's Ulysses: DistributedAttention around scaled_dot_product_attention. pip install deepspeed

python -m attention_gate gate examples/deepspeed_target.py:ulysses
"""

from __future__ import annotations

import deepspeed
import torch
import torch.distributed as dist
import torch.nn.functional as F
from deepspeed.sequence.layer import DistributedAttention

import attention_gate

# Its shared-memory reductions for one machine would be compiled here, in every rank; all-to-all does not use them.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def local_attention(query, key, value, *, is_causal, scale):
    """Any attention would do. The mask is given, as torch's causal kernel for the CPU returns NaN for scale <= 0."""
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    length = query.shape[1]
    mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril() if is_causal else None
    grouped = query.shape[2] != key.shape[2]
    out = F.scaled_dot_product_attention(*heads_first, attn_mask=mask, scale=scale, enable_gqa=grouped)
    return out.transpose(1, 2)


def attend(query, key, value, *, is_causal, scale, group, **_):
    if not deepspeed.comm.is_initialized():
        deepspeed.init_distributed(dist_backend=dist.get_backend(), verbose=False)
    layer = DistributedAttention(local_attention, group or dist.group.WORLD, scatter_idx=2, gather_idx=1)
    return layer(query, key, value, 0, is_causal=is_causal, scale=scale)


def heads_for_every_rank(case: attention_gate.Case) -> attention_gate.Case:
    times = 1 if case.kv_heads % case.shards == 0 else case.shards
    return case.replace(heads=case.heads * times, kv_heads=case.kv_heads * times)


ulysses = attention_gate.Target(
    attend=attend,
    branches="dense",
    uneven=False,
    refusals=False,
    fit=heads_for_every_rank,
    because={
        "branches": "it is dense attention",
        "uneven": "all-to-all in equal parts",
        "refusals": "arguments are not checked",
        "fit": "each rank takes an equal part of the key heads",
    },
)
