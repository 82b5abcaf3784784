"""torch's own attention with fewer or more queries than keys: both of its causal alignments, over gathered keys.

python -m attention_gate gate examples/torch_cross_attention_target.py:lower_right --profile quick
python -m attention_gate gate examples/torch_cross_attention_target.py:upper_left --profile quick
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch.nn.attention.bias import causal_lower_right

import attention_gate


def _over_all_keys(query, key, value, scale, sequence_length, group, **causal):
    keys, values = attention_gate.gather_rows(key, value, sequence_length=sequence_length, group=group)
    heads_first = (rows.transpose(1, 2) for rows in (query, keys, values))
    out = F.scaled_dot_product_attention(*heads_first, scale=scale, enable_gqa=query.shape[2] > key.shape[2], **causal)
    return out.transpose(1, 2)


def attend_lower_right(query, key, value, *, is_causal, scale, sequence_length, group, query_length=None, **_):
    """Each rank's queries are the last positions: its own part of torch's mask for the lower right corner."""
    if not is_causal:
        return _over_all_keys(query, key, value, scale, sequence_length, group)
    size = torch.distributed.get_world_size(group) if torch.distributed.is_initialized() else 1
    rank = torch.distributed.get_rank(group) if size > 1 else 0
    keys = key.shape[1] * size if sequence_length is None else sequence_length
    queries = keys if query_length is None else query_length
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    if queries and keys:
        mask = causal_lower_right(queries, keys)._materialize("cpu")
    own = mask.tensor_split(size)[rank].to(query.device)
    return _over_all_keys(query, key, value, scale, sequence_length, group, attn_mask=own)


def attend_upper_left(query, key, value, *, is_causal, scale, sequence_length, group, **_):
    """is_causal as it is: on one rank, as it knows no offset."""
    return _over_all_keys(query, key, value, scale, sequence_length, group, is_causal=is_causal)


LIMITS = {"branches": "dense", "terms": ("queries",), "dtypes": ("float64", "float32"), "refusals": False}
BECAUSE = {"refusals": "arguments are not checked", "dtypes": "its sums in half types are judged with as many queries"}

lower_right = attention_gate.Target(attend=attend_lower_right, **LIMITS, because=BECAUSE)
upper_left = attention_gate.Target(attend=attend_upper_left, **LIMITS, because=BECAUSE)
