"""yunchang (long-context-attention): Ulysses, and its hybrid with a ring. pip install yunchang

python -m attention_gate gate examples/yunchang_target.py:ulysses
python -m attention_gate gate examples/yunchang_target.py:hybrid --world-sizes 4
"""

from __future__ import annotations

import flash_attn_stand_in
import torch.distributed as dist

import attention_gate

flash_attn_stand_in.install()

import yunchang  # noqa: E402
from yunchang.globals import PROCESS_GROUP  # noqa: E402
from yunchang.kernels import AttnType  # noqa: E402
from yunchang.ulysses import UlyssesAttention  # noqa: E402


def attend_ulysses(query, key, value, *, is_causal, scale, group, **_):
    layer = UlyssesAttention(group or dist.group.WORLD, attn_type=AttnType.FA)
    return layer(query, key, value, softmax_scale=scale, causal=is_causal)


def attend_hybrid(query, key, value, *, is_causal, scale, **_):
    """Ulysses over pairs of neighbours, a ring over the pairs."""
    if PROCESS_GROUP.RING_PG is None:
        rank, world_size = dist.get_rank(), dist.get_world_size()
        yunchang.set_seq_parallel_pg(2, world_size // 2, rank, world_size)
    layer = yunchang.LongContextAttention(ring_impl_type="basic", attn_type=AttnType.FA)
    return layer(query, key, value, softmax_scale=scale, causal=is_causal)


def heads_for_every_rank(case: attention_gate.Case) -> attention_gate.Case:
    return case.replace(heads=_up(case.heads, case), kv_heads=_up(case.kv_heads, case))


def heads_for_every_pair(case: attention_gate.Case) -> attention_gate.Case:
    return case.replace(heads=2 * ((case.heads + 1) // 2), kv_heads=2 * ((case.heads + 1) // 2))


def _up(heads: int, case: attention_gate.Case) -> int:
    return heads if case.kv_heads % case.shards == 0 else heads * case.shards


LIMITS = {"branches": "dense", "dtypes": ("bfloat16", "float16"), "uneven": False, "refusals": False}
BECAUSE = {
    "branches": "it is dense attention",
    "dtypes": "flash-attn takes half types",
    "uneven": "all-to-all in equal parts",
    "refusals": "arguments are not checked",
}

ulysses = attention_gate.Target(
    attend=attend_ulysses,
    **LIMITS,
    fit=heads_for_every_rank,
    because=BECAUSE | {"fit": "each rank takes an equal part of the key heads"},
)
hybrid = attention_gate.Target(
    attend=attend_hybrid,
    **LIMITS,
    least_ranks=4,
    heads_shared=2,
    subgroups=False,
    grouped_query=False,
    value_dim=False,
    fit=heads_for_every_pair,
    because=BECAUSE
    | {
        "least_ranks": "two by two; run it with --world-sizes 4",
        "heads_shared": "two by two: a ring of half as many blocks as ranks",
        "subgroups": "its groups are made once, of all ranks",
        "grouped_query": "not tried here",
        "value_dim": "flash-attn's kernels want one head_dim",
        "fit": "an even number of heads",
    },
)
