"""ring-attention-pytorch: the ring without CUDA, striped too, and zig-zag. pip install ring-attention-pytorch

python -m attention_gate gate examples/ring_attention_pytorch_target.py:ring --profile quick
python -m attention_gate gate examples/ring_attention_pytorch_target.py:tree_decoding --profile quick
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from ring_attention_pytorch.ring_flash_attention import ring_flash_attn
from ring_attention_pytorch.tree_attn_decoding import tree_attn_decode
from ring_attention_pytorch.zig_zag_attention import zig_zag_attn

import attention_gate
from attention_gate.verify.target.layouts import zigzag as zigzag_positions


def interleaved(query, key):
    """The library lets query head h read key head h mod kv_heads; the contract, h // (heads / kv_heads)."""
    return query.unflatten(2, (key.shape[2], -1)).transpose(2, 3).flatten(2, 3)


def grouped(out, key):
    """The output's heads back in the order of the contract."""
    return out.unflatten(2, (-1, key.shape[2])).transpose(2, 3).flatten(2, 3)


def attend_ring(query, key, value, *, is_causal, **options):
    shared = dist.get_world_size() > 1
    options = {"bucket_size": query.shape[1], "striped_ring_attn": options.get("striped", False)}
    out = ring_flash_attn(interleaved(query, key), key, value, causal=is_causal, ring_reduce_col=shared, **options)
    return grouped(out, key)


def attend_striped(query, key, value, *, is_causal, **_):
    return attend_ring(query, key, value, is_causal=is_causal, striped=True)


def attend_zig_zag(query, key, value, *, is_causal, **_):
    """The library gathers keys in the order of the ranks; the mask is the caller's, as in its own tests."""
    world_size, rank = dist.get_world_size(), dist.get_rank()
    mask = None
    if is_causal:
        length = query.shape[1] * world_size
        owned = [
            torch.as_tensor(zigzag_positions(r, world_size, length), device=query.device) for r in range(world_size)
        ]
        mask = owned[rank][:, None] >= torch.cat(owned)
    heads_first = (tensor.transpose(1, 2) for tensor in (interleaved(query, key), key, value))
    return grouped(zig_zag_attn(*heads_first, attn_mask=mask).transpose(1, 2), key)


def attend_tree(query, key, value, *, sequence_length, group, **_):
    """Tree attention (arXiv 2408.04093): the library cuts the keys itself, in parts as torch.chunk makes them."""
    keys, values = attention_gate.gather_rows(key, value, sequence_length=sequence_length, group=group)
    repeats = query.shape[2] // key.shape[2]
    q, k, v = (rows.transpose(1, 2) for rows in (query, keys, values))
    out = tree_attn_decode(q, k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1))
    return out.transpose(1, 2)


def even_halves(case: attention_gate.Case) -> attention_gate.Case:
    length = case.length + -case.length % (2 * case.shards)
    return case.replace(length=length, segment_lengths=(length,))


LIMITS = {"branches": "dense", "uneven": False, "subgroups": False, "scales": False, "refusals": False}
BECAUSE = {
    "branches": "ring attention is dense",
    "uneven": "the caller pads and masks",
    "subgroups": "it uses the default group; rings are consecutive ranks of it",
    "scales": "there is no such argument",
    "refusals": "arguments are not checked",
}
SUMS = {"dtypes": "softmax sums are kept in float32"}

ring = attention_gate.Target(
    attend=attend_ring,
    **LIMITS,
    dtypes=("float32",),
    value_dim=False,
    because=BECAUSE | SUMS | {"value_dim": "keys and values travel in one tensor"},
)
striped = attention_gate.Target(
    attend=attend_striped,
    layout="striped",
    **LIMITS,
    masks=(True,),
    dtypes=("float32",),
    value_dim=False,
    because=BECAUSE
    | SUMS
    | {"value_dim": "keys and values travel in one tensor", "masks": "stripes balance the work of a causal mask"},
)
zig_zag = attention_gate.Target(
    attend=attend_zig_zag,
    layout="zigzag",
    fit=even_halves,
    **LIMITS,
    because=BECAUSE | {"fit": "two equal chunks on each rank"},
)
tree_decoding = attention_gate.Target(
    attend=attend_tree,
    queries="replicated",
    terms=("queries",),
    branches="dense",
    masks=(False,),
    gradients=False,
    least_ranks=2,
    subgroups=False,
    scales=False,
    refusals=False,
    because={"least_ranks": "it reduces over a process group in any case"}
    | {name: BECAUSE[name] for name in ("branches", "subgroups", "scales", "refusals")},
)
