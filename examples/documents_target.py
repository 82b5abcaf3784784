"""Packed documents over gathered keys, in torch alone: a target that declares one optional term.

python -m attention_gate gate examples/documents_target.py:target
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate import Target, gather_rows


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    is_causal: bool = False,
    scale: float | None = None,
    sequence_length: int | None = None,
    group: Any = None,
    document_lengths: list[int] | None = None,
    **_: Any,
) -> Tensor:
    """Attention of this rank's rows to the gathered keys of their documents."""
    keys, values = gather_rows(key, value, sequence_length=sequence_length, group=group)
    together = dist.is_initialized()
    rank, size = (dist.get_rank(group), dist.get_world_size(group)) if together else (0, 1)
    every = torch.arange(keys.shape[1])
    own = every.tensor_split(size)[rank]
    documents = _documents(document_lengths, len(every))
    seen = (documents[own][:, None] == documents) & (documents >= 0)
    if is_causal:
        seen &= every <= own[:, None]
    group_size = query.shape[2] // key.shape[2]
    keys, values = (rows.repeat_interleave(group_size, dim=2) for rows in (keys, values))
    scores = torch.einsum("bihd,bjhd->bhij", query, keys) * (query.shape[-1] ** -0.5 if scale is None else scale)
    # A row that sees nothing attends to everything and is then taken out: a softmax over nothing would be NaN.
    empty = ~seen.any(-1, keepdim=True)
    weights = scores.masked_fill(~(seen | empty), float("-inf")).softmax(-1).masked_fill(empty, 0.0)
    return torch.einsum("bhij,bjhd->bihd", weights, values)


def _documents(lengths: list[int] | None, rows: int) -> Tensor:
    """The number of each row's document."""
    lengths = [rows] if lengths is None else lengths
    numbers = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths, dtype=torch.int64))
    return torch.cat((numbers, torch.full((rows - len(numbers),), -1)))


target = Target(
    attend=attend,
    terms=("documents",),
    branches="dense",
    dtypes=("float64", "float32"),
    refusals=False,
    because={"refusals": "left out to keep the example short"},
)
