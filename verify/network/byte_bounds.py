"""How many bytes a pass must move and may move, per rank, from the rows that each rank sees and owns.

A rank needs a row of key and value (of one kv head) if one of its queries sees it. Forward, rows that another rank owns
must come in once each; backward, once more, and the gradients of the rank's own rows come home from their users.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import torch

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.masks import branch_masks, joint_and_own
from attention_gate.verify.case.positions import Positions

#: Bytes that a rank may exchange with each other rank in addition to rows, such as digests of the arguments.
METADATA = 1024


@dataclass(frozen=True)
class Allowance:
    """Bytes that one rank may receive and send in a pass."""

    received: float
    sent: float


def least(case: Case, dialect: str, positions: Positions, stage: str, totals: Collection[str] = ()) -> list[Allowance]:
    """What the pass must move, for each shard: every row once, to the ranks that see it and to no other.

    ``totals`` are the gradients of what every rank has that each rank returns whole: what each gets from all others.
    """
    need = needed_rows(case, dialect, positions)
    p = case.shards
    shared = _summed_bytes(case, totals) if stage == "backward" else 0
    found = []
    for own in range(p):
        into = sum(need[own, other] for other in range(p) if other != own)
        out = sum(need[other, own] for other in range(p) if other != own)
        rows, grads = _row_bytes(case)
        if stage == "forward":
            found.append(Allowance(into * rows, out * rows))
        else:  # the gradients of rows that left come home, and those of rows that came in leave
            found.append(Allowance(into * rows + out * grads + shared, out * rows + into * grads + shared))
    return found


def most(case: Case, positions: Positions, stage: str, totals: Collection[str] = ()) -> float:
    """What no pass needs to exceed, sent or received: a dense ring, or an exchange of all heads where that takes more.

    Forward the ring carries p - 1 shards of key and value. Backward it carries them again, and with them their
    gradients, which travel one hop more, in no wider than the accumulation dtype: 2 (p - 1) + 1 shards of that.
    Where every rank has all queries, each sends its own output and lse to all others, and gets theirs.
    """
    p = case.shards
    if p == 1:
        return 0.0
    shard = max(len(owned) for owned in positions.keys) * case.kv_heads
    rows, grads = _row_bytes(case)
    ring = (p - 1) * shard * rows if stage == "forward" else (2 * (p - 1) + 1) * shard * grads
    # Heads dealt out to the ranks and back: query, key, value there and the output back; backward their gradients too.
    item = _itemsize(case.dtype) if stage == "forward" else 2 * max(4, _itemsize(case.dtype))
    widths = (case.head_dim + case.value_dim) * case.batch * item
    queries = max(len(owned) for owned in positions.queries)
    heads = (p - 1) / p * (case.heads * queries * widths + shard * widths)
    if not positions.replicated:
        return max(ring, heads) + (_summed_bytes(case, totals) if stage == "backward" else 0)
    accumulated = max(4, _itemsize(case.dtype))
    partial = (p - 1) * queries * case.heads * (case.value_dim + 1) * case.batch * accumulated
    return max(ring, heads, partial)


def needed_rows(case: Case, dialect: str, positions: Positions) -> np.ndarray:
    """How many pairs (row, kv head) of each shard each shard's queries see: int64 (shards, shards), [user, owner].

    Rows that every rank has are none of them: they do not travel.
    """
    seen = branch_masks(case, dialect)[..., joint_and_own(case)[1]].any(axis=0)
    grouped = seen.reshape(case.kv_heads, case.heads // case.kv_heads, case.queries, case.length)
    by_kv_head = np.any(grouped, axis=1)
    need = np.zeros((case.shards, case.shards), dtype=np.int64)
    for user, own in enumerate(positions.queries):
        visible = np.any(by_kv_head[:, own], axis=1)
        for owner, owned in enumerate(positions.keys):
            need[user, owner] = visible[:, owned].sum()
    return need


def _summed_bytes(case: Case, totals: Collection[str]) -> int:
    """Bytes of what every rank gets from all others, so that each has the sum over the ranks."""
    item = max(4, _itemsize(case.dtype))
    widths = {
        "sink.grad": case.heads * (case.sink is not None),
        "joint_key.grad": case.batch * case.joint_rows * case.kv_heads * case.head_dim,
        "joint_value.grad": case.batch * case.joint_rows * case.kv_heads * case.value_dim,
    }
    return (case.shards - 1) * item * sum(widths[name] for name in totals)


def _row_bytes(case: Case) -> tuple[int, int]:
    """Bytes of one row of key and value of one kv head, over the batch: as inputs, and as gradients in flight."""
    elements = case.batch * (case.head_dim + case.value_dim)
    item = _itemsize(case.dtype)
    return elements * item, elements * max(4, item)


def _itemsize(dtype: str) -> int:
    return int(getattr(torch, dtype).itemsize)
