"""ring-flash-attn: ring, zigzag, striped and gathered ("llama3") attention. pip install ring-flash-attn

python -m attention_gate gate examples/ring_flash_attn_target.py:ring
"""

from __future__ import annotations

import flash_attn_stand_in
import torch
import torch.distributed as dist

import attention_gate

flash_attn_stand_in.install()

import ring_flash_attn as library  # noqa: E402


def attend_ring(query, key, value, *, is_causal, scale, group, **_):
    return library.ring_flash_attn_func(query, key, value, softmax_scale=scale, causal=is_causal, group=group)


def attend_zigzag(query, key, value, *, is_causal, scale, group, **_):
    return library.zigzag_ring_flash_attn_func(query, key, value, softmax_scale=scale, causal=is_causal, group=group)


def attend_stripe(query, key, value, *, is_causal, scale, group, **_):
    return library.stripe_flash_attn_func(query, key, value, softmax_scale=scale, causal=is_causal, group=group)


def attend_llama3(query, key, value, *, is_causal, scale, group, **_):
    """Packed sequences of a batch of one; a larger batch is taken one by one."""
    length = query.shape[1] * dist.get_world_size(group)
    whole = torch.tensor([0, length], dtype=torch.int32, device=query.device)
    places = library.llama3_flash_attn_prepare_cu_seqlens(
        whole, causal=is_causal, rank=dist.get_rank(group), world_size=dist.get_world_size(group)
    )
    *counts, keys = places
    outs = [
        library.llama3_flash_attn_varlen_func(
            *parts, *counts, heads_k_stride=1, local_k_slice=keys, softmax_scale=scale, causal=is_causal, group=group
        )
        for parts in zip(query, key, value, strict=True)
    ]
    return torch.stack(outs)


LIMITS = {
    "branches": "dense",
    "dtypes": ("bfloat16", "float16"),
    "value_dim": False,
    "uneven": False,
    "refusals": False,
    "least_ranks": 2,
}
BECAUSE = {
    "branches": "ring attention is dense",
    "dtypes": "flash-attn takes half types",
    "value_dim": "flash-attn's kernels want one head_dim",
    "uneven": "a rank receives into buffers of its own shape",
    "refusals": "arguments are not checked",
    "least_ranks": "the gradients of keys are sent even to oneself, which gloo refuses",
}


def even_halves(case: attention_gate.Case) -> attention_gate.Case:
    """Zigzag needs two chunks of one length on each rank."""
    length = case.length + -case.length % (2 * case.shards)
    return case.replace(length=length, segment_lengths=(length,))


ring = attention_gate.Target(attend=attend_ring, **LIMITS, because=BECAUSE)
zigzag = attention_gate.Target(
    attend=attend_zigzag,
    layout="zigzag",
    masks=(True,),
    fit=even_halves,
    **LIMITS,
    because=BECAUSE | {"masks": "it balances the work of a causal mask", "fit": "two equal chunks on each rank"},
)
stripe = attention_gate.Target(
    attend=attend_stripe,
    layout="striped",
    masks=(True,),
    **LIMITS,
    because=BECAUSE | {"masks": "it balances the work of a causal mask"},
)
llama3 = attention_gate.Target(attend=attend_llama3, **LIMITS, because=BECAUSE)
