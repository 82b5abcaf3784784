"""How many bytes a pass must move and may move, per rank, from the rows that each rank sees and owns.

A rank needs a row of key and value (of one kv head) if one of its queries sees it. Forward, rows that another rank owns
must come in once each; backward, once more, and the gradients of the rank's own rows come home from their users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.masks import visibility

#: Bytes that a rank may exchange with each other rank in addition to rows, such as digests of the arguments.
METADATA = 1024


@dataclass(frozen=True)
class Allowance:
    """Bytes that one rank may receive and send in a pass."""

    received: float
    sent: float


def least(case: Case, dialect: str, positions: Sequence[np.ndarray], stage: str) -> list[Allowance]:
    """What the pass must move, for each shard: every row once, to the ranks that see it and to no other."""
    need = needed_rows(case, dialect, positions)
    p = case.shards
    found = []
    for own in range(p):
        into = sum(need[own, other] for other in range(p) if other != own)
        out = sum(need[other, own] for other in range(p) if other != own)
        rows, grads = _row_bytes(case)
        if stage == "forward":
            found.append(Allowance(into * rows, out * rows))
        else:  # the gradients of rows that left come home, and those of rows that came in leave
            found.append(Allowance(into * rows + out * grads, out * rows + into * grads))
    return found


def most(case: Case, positions: Sequence[np.ndarray], stage: str) -> float:
    """What no pass needs to exceed, sent or received: a dense ring, or an exchange of all heads where that takes more.

    Forward the ring carries p - 1 shards of key and value. Backward it carries them again, and with them their
    gradients, which travel one hop more, in no wider than the accumulation dtype: 2 (p - 1) + 1 shards of that.
    """
    p = case.shards
    if p == 1:
        return 0.0
    shard = max(len(owned) for owned in positions) * case.kv_heads
    rows, grads = _row_bytes(case)
    ring = (p - 1) * shard * rows if stage == "forward" else (2 * (p - 1) + 1) * shard * grads
    # Heads dealt out to the ranks and back: query, key, value there and the output back; backward their gradients too.
    item = _itemsize(case.dtype) if stage == "forward" else 2 * max(4, _itemsize(case.dtype))
    width = (case.heads + case.kv_heads) * (case.head_dim + case.value_dim) * case.batch * item
    heads = (p - 1) / p * max(len(owned) for owned in positions) * width
    return max(ring, heads)


def needed_rows(case: Case, dialect: str, positions: Sequence[np.ndarray]) -> np.ndarray:
    """How many pairs (row, kv head) of each shard each shard's queries see: int64 (shards, shards), [user, owner]."""
    branches = reference.branches(case.segment_lengths, case.dilation_rates)
    seen = np.greater(
        reference.multiplicity(case.length, case.heads, branches, case.is_causal, dialect, **visibility(case)), 0
    )
    grouped = seen.reshape(case.kv_heads, case.heads // case.kv_heads, case.length, case.length)
    by_kv_head = np.any(grouped, axis=1)
    need = np.zeros((case.shards, case.shards), dtype=np.int64)
    for user, own in enumerate(positions):
        visible = np.any(by_kv_head[:, own], axis=1)
        for owner, owned in enumerate(positions):
            need[user, owner] = visible[:, owned].sum()
    return need


def _row_bytes(case: Case) -> tuple[int, int]:
    """Bytes of one row of key and value of one kv head, over the batch: as inputs, and as gradients in flight."""
    elements = case.batch * (case.head_dim + case.value_dim)
    item = _itemsize(case.dtype)
    return elements * item, elements * max(4, item)


def _itemsize(dtype: str) -> int:
    return int(getattr(torch, dtype).itemsize)
