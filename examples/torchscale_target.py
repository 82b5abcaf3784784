"""torchscale's DilatedAttention, alone and sequence-parallel. pip install git+https://github.com/microsoft/torchscale

python -m attention_gate gate examples/torchscale_target.py:alone --world-sizes 1
python -m attention_gate gate examples/torchscale_target.py:parallel --world-sizes 1,2
"""

from __future__ import annotations

import math
from types import SimpleNamespace

import torch
import torch.distributed as dist
from torch import nn
from torchscale.component import multihead_attention
from torchscale.component.dilated_attention import DilatedAttention

import attention_gate


def flash_attn_func(q, k, v, dropout=0.0, bias=None, softmax_scale=None, is_causal=False):
    """What torchscale imports from flash-attn where there is a GPU: (out, lse), the causal mask to the lower right."""
    wide = torch.promote_types(q.dtype, torch.float32)
    scores = torch.einsum("bihd,bjhd->bhij", q.to(wide), k.to(wide)) * (softmax_scale or q.shape[-1] ** -0.5)
    if is_causal:
        rows, keys = scores.shape[-2:]
        hidden = torch.ones(rows, keys, dtype=torch.bool, device=q.device).triu(keys - rows + 1)
        scores = scores.masked_fill(hidden, float("-inf"))
    lse = scores.logsumexp(-1)
    weights = (scores - lse.masked_fill(lse.isneginf(), 0.0).unsqueeze(-1)).exp()
    return torch.einsum("bhij,bjhd->bihd", weights, v.to(wide)).to(q.dtype), lse


if multihead_attention.flash_attn_func is None:
    multihead_attention.flash_attn_func = flash_attn_func


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal, seq_parallel=False, **_):
    """The layer without its projections."""
    batch, rows, heads, dim = query.shape
    options = SimpleNamespace(
        flash_attention=True,
        segment_length=segment_lengths,
        dilated_ratio=dilation_rates,
        seq_parallel=seq_parallel,
        multiway=False,
        xpos_rel_pos=False,
        layernorm_eps=1e-5,
    )
    layer = DilatedAttention(options, heads * dim, heads, self_attention=True)
    layer.q_proj = layer.k_proj = layer.v_proj = layer.out_proj = nn.Identity()
    parts = (tensor.reshape(batch, rows, heads * dim) for tensor in (query, key, value))
    return layer(*parts, is_causal=is_causal)[0].view(batch, rows, heads, dim)


def attend_parallel(query, key, value, **options):
    """A segment is a rank's rows, or the rows of several whole ranks."""
    if not query.is_cuda:
        torch.cuda.current_device = lambda: torch.device("cpu")  # where the library allocates what it gathers
    return attend(query, key, value, seq_parallel=dist.get_world_size() > 1, **options)


def no_padding(case: attention_gate.Case) -> attention_gate.Case:
    """Segments that divide the sequence, and rates that divide segments: where the library pads nothing."""
    segments = tuple(-(-w // r) * r for w, r in zip(case.segment_lengths, case.dilation_rates, strict=True))
    whole = math.lcm(*segments)
    if whole > 60 and len(segments) > 1:
        return no_padding(case.replace(segment_lengths=segments[:1], dilation_rates=case.dilation_rates[:1]))
    return case.replace(length=-(-max(case.length, 1) // whole) * whole, segment_lengths=segments)


def whole_ranks(case: attention_gate.Case) -> attention_gate.Case:
    """The same, with segments of one rank's rows or of all ranks'."""
    rate = math.lcm(*case.dilation_rates)
    rows = -(-max(case.length, 1) // (case.shards * rate)) * rate
    segments = tuple(rows if w <= rows else rows * case.shards for w in case.segment_lengths)
    return case.replace(length=rows * case.shards, segment_lengths=segments)


LIMITS = {
    "dialect": "torchscale",
    "grouped_query": False,
    "value_dim": False,
    "uneven": False,
    "subgroups": False,
    "scales": False,
    "refusals": False,
}
BECAUSE = {
    "grouped_query": "keys have as many heads as queries",
    "value_dim": "one embed_dim for all",
    "uneven": "ranks hold equal parts",
    "subgroups": "it makes a group of all ranks",
    "scales": "there is no such argument",
    "refusals": "arguments are not checked",
}

alone = attention_gate.Target(attend=attend, **LIMITS, fit=no_padding, because=BECAUSE | {"fit": "nothing is padded"})
any_length = attention_gate.Target(attend=attend, **LIMITS, because=BECAUSE)
parallel = attention_gate.Target(
    attend=attend_parallel,
    **LIMITS,
    fit=whole_ranks,
    because=BECAUSE | {"fit": "a segment is one rank's rows or all ranks'"},
)
