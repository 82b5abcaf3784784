"""dilated-attention-pytorch: DilatedAttention on one device. pip install dilated-attention-pytorch

python -m attention_gate gate examples/dilated_attention_pytorch_target.py:target --world-sizes 1
"""

from __future__ import annotations

import math

import xformers_stand_in

import attention_gate

xformers_stand_in.install()

from dilated_attention_pytorch.dilated_attention import DilatedAttention  # noqa: E402


def attend(query, key, value, *, segment_lengths, dilation_rates, is_causal, scale, **_):
    return DilatedAttention(segment_lengths, dilation_rates, softmax_scale=scale)(query, key, value, is_causal)


def whole_segments(case: attention_gate.Case) -> attention_gate.Case:
    """Segments that divide the sequence."""
    whole = math.lcm(*case.segment_lengths)
    if whole > 60:
        return whole_segments(case.replace(segment_lengths=tuple(min(w, 4) for w in case.segment_lengths)))
    return case.replace(length=-(-max(case.length, 1) // whole) * whole)


target = attention_gate.Target(
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
