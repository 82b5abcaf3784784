"""dilated-attention-pytorch: DilatedAttention on one device. pip install dilated-attention-pytorch

python -m verify gate examples/dilated_attention_pytorch_target.py:target --world-sizes 1
"""

from __future__ import annotations

import importlib.util
import math
import sys
import types

import torch.nn.functional as F

import verify


def install_xformers_stand_in() -> None:
    """Register what the library imports of xformers, unless xformers itself can be imported: no wheel is for a CPU."""
    if "xformers" in sys.modules or importlib.util.find_spec("xformers") is not None:
        return

    class LowerTriangularMask:
        pass

    def memory_efficient_attention(query, key, value, attn_bias=None, p=0.0, scale=None, *, op=None):
        heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
        causal = isinstance(attn_bias, LowerTriangularMask)
        return F.scaled_dot_product_attention(*heads_first, is_causal=causal, scale=scale).transpose(1, 2)

    xformers, ops = types.ModuleType("xformers"), types.ModuleType("xformers.ops")
    ops.LowerTriangularMask, ops.AttentionOp = LowerTriangularMask, object
    ops.memory_efficient_attention = memory_efficient_attention
    xformers.ops = ops
    sys.modules |= {"xformers": xformers, "xformers.ops": ops}


install_xformers_stand_in()

from dilated_attention_pytorch.dilated_attention import DilatedAttention  # noqa: E402


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal, scale, **_):
    return DilatedAttention(segment_lengths, dilation_rates, softmax_scale=scale)(query, key, value, is_causal)


def whole_segments(case: verify.Case) -> verify.Case:
    """Segments that divide the sequence."""
    whole = math.lcm(*case.segment_lengths)
    if whole > 60:
        return whole_segments(case.replace(segment_lengths=tuple(min(w, 4) for w in case.segment_lengths)))
    return case.replace(length=-(-max(case.length, 1) // whole) * whole)


target = verify.Target(
    attend=attend,
    dialect="grouped-mean",
    grouped_query=False,
    value_dim=False,
    uneven=False,
    subgroups=False,
    refusals=False,
    fit=whole_segments,
    because={
        "fit": "segments divide the sequence",
        "grouped_query": "keys have as many heads as queries",
        "value_dim": "the output has the shape of the query",
        "uneven": "it runs on one device",
        "subgroups": "it runs on one device",
        "refusals": "arguments are not checked",
    },
)
