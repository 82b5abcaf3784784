"""ring-flash-attn with packed documents: its ring, its zigzag and its gathered ("llama3") attention, with windows too.

python -m attention_gate gate examples/ring_flash_attn_documents_target.py:llama3
python -m attention_gate gate examples/ring_flash_attn_documents_target.py:ring_windows
"""

from __future__ import annotations

import itertools

import flash_attn_stand_in
import numpy as np
import torch
import torch.distributed as dist

import attention_gate

flash_attn_stand_in.install()

import ring_flash_attn as library  # noqa: E402
from ring_flash_attn_target import BECAUSE, LIMITS  # noqa: E402


def ends(lengths, device):
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32, device=device)


def bounds(window):
    """A window as flash-attn takes it: -1 is no bound."""
    return tuple(-1 if bound is None else bound for bound in window or (None, None))


def one_by_one(function, query, key, value):
    """Packed rows have no batch: each sequence of it is a call."""
    return torch.stack([function(*rows) for rows in zip(query, key, value, strict=True)])


def by_parts(function, query, key, value, *, is_causal, scale, group, document_lengths, window=None, **_):
    """Of each document every rank has as many rows; the boundaries are those of its own rows."""
    shares = [length // dist.get_world_size(group) for length in document_lengths]
    options = {"softmax_scale": scale, "causal": is_causal, "window_size": bounds(window), "group": group}
    own = ends(shares, query.device), max(shares)
    return one_by_one(lambda *rows: function(*rows, *own, **options), query, key, value)


def attend_ring(query, key, value, **options):
    return by_parts(library.ring_flash_attn_varlen_func, query, key, value, **options)


def attend_zigzag(query, key, value, **options):
    return by_parts(library.zigzag_ring_flash_attn_varlen_func, query, key, value, **options)


def attend_llama3(query, key, value, *, is_causal, scale, group, document_lengths, window=None, **_):
    """The boundaries are those of all ranks' rows."""
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    *counts, keys = library.llama3_flash_attn_prepare_cu_seqlens(
        ends(document_lengths, query.device), causal=is_causal, rank=rank, world_size=size
    )
    options = {"softmax_scale": scale, "causal": is_causal, "window_size": bounds(window), "group": group}
    return one_by_one(
        lambda *rows: library.llama3_flash_attn_varlen_func(
            *rows, *counts, heads_k_stride=1, local_k_slice=keys, **options
        ),
        query,
        key,
        value,
    )


def part_of_each(rank, world_size, length, document_lengths=None):
    """Rank r owns part r of world_size parts of each document."""
    first, owned = 0, []
    for rows in document_lengths or (length,):
        share = rows // world_size
        owned.append(np.arange(first + rank * share, first + (rank + 1) * share))
        first += rows
    return np.concatenate(owned)


def packed(case: attention_gate.Case, parts: int) -> attention_gate.Case:
    """Documents that the parts divide, none of them empty, and no rows outside of them."""
    lengths = [length for length in case.document_lengths or () if length]
    left_over = case.length - sum(lengths)
    lengths = [length + -length % parts for length in (*lengths, *([left_over] if left_over else ()))] or [parts]
    return case.replace(length=sum(lengths), document_lengths=tuple(lengths), segment_lengths=(sum(lengths),))


def in_parts(case: attention_gate.Case) -> attention_gate.Case:
    return packed(case, case.shards)


def in_halves(case: attention_gate.Case) -> attention_gate.Case:
    return packed(case, 2 * case.shards)


def whole(case: attention_gate.Case) -> attention_gate.Case:
    """Any documents, none of them empty, whose rows the ranks divide."""
    made = packed(case, 1)
    more = -made.length % case.shards
    lengths = (*made.document_lengths[:-1], made.document_lengths[-1] + more)
    return made.replace(length=made.length + more, document_lengths=lengths, segment_lengths=(made.length + more,))


RING = LIMITS | {"layout": part_of_each, "fit": in_parts}
WHY_RING = BECAUSE | {"layout": "each rank has a part of each document", "fit": "equal parts, none of them empty"}
ZIGZAG = LIMITS | {"layout": "document-zigzag", "fit": in_halves, "masks": (True,)}
WHY_ZIGZAG = BECAUSE | {
    "layout": "each rank has two parts of each document",
    "fit": "equal parts, none of them empty",
    "masks": "it balances the work of a causal mask",
}
LLAMA3 = LIMITS | {"fit": whole}
WHY_LLAMA3 = BECAUSE | {"fit": "as many rows on each rank, no empty documents"}
BOTH = ("documents", "window")

ring = attention_gate.Target(attend=attend_ring, terms=("documents",), **RING, because=WHY_RING)
zigzag = attention_gate.Target(attend=attend_zigzag, terms=("documents",), **ZIGZAG, because=WHY_ZIGZAG)
llama3 = attention_gate.Target(attend=attend_llama3, terms=("documents",), **LLAMA3, because=WHY_LLAMA3)
ring_windows = attention_gate.Target(attend=attend_ring, terms=BOTH, **RING, because=WHY_RING)
zigzag_windows = attention_gate.Target(attend=attend_zigzag, terms=BOTH, **ZIGZAG, because=WHY_ZIGZAG)
llama3_windows = attention_gate.Target(attend=attend_llama3, terms=BOTH, **LLAMA3, because=WHY_LLAMA3)
llama3_causal_windows = attention_gate.Target(
    attend=attend_llama3,
    terms=BOTH,
    masks=(True,),
    **LLAMA3,
    because=WHY_LLAMA3 | {"masks": "what its windows mean without causality is another target's"},
)
