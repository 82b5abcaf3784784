"""Where the first wrong element is, in the caller's terms: rank, head, position, branch, and the key's owner."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.masks import branch_masks, joint_and_own
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.judge.oracle import Answer
from attention_gate.verify.world.finding import Element

_SHOWN = 8


def describe(
    case: Case, positions: Positions, name: str, got: np.ndarray, answer: Answer, share: np.ndarray
) -> tuple[list[str], Element]:
    """Lines on the first wrong element, in the order of positions, and the element itself."""
    axis = 2 if name == "lse" else 1
    wrong = np.moveaxis(np.logical_not(share <= 1.0), axis, 0)
    first = [int(i) for i in np.argwhere(wrong)[0]]
    position = first[0]
    index = (*first[1 : axis + 1], position, *first[axis + 1 :])
    batch, head, *dim = (i for k, i in enumerate(index) if k != axis)
    shard, row = _owner(positions.of(name), position)
    kv = name in ("key.grad", "value.grad")
    of_query = not kv and ("queries" in case.terms or "joint" in case.terms)
    place = f"{name}[batch {batch}, {'query' if of_query else 'position'} {position}"
    place += f", {'kv head' if kv else 'head'} {head}"
    place += f", dim {dim[0]}]" if dim else "]"
    expected, actual = float(answer.expected[name][index]), float(got[index])
    lines = [
        f"first wrong element: {place}, row {row} of rank {case.ranks[shard]}",
        f"  expected {expected:.9g}, got {actual:.9g}",
    ]
    if np.isfinite(actual) and np.isfinite(expected):
        lines[-1] += f": off by {abs(actual - expected):.3g}, {_times(share[index])} the rounding error that is allowed"
    lines += _sight(case, positions, position, head, kv, answer.dialect)
    element = Element(batch, position, head, dim[0] if dim else None, case.ranks[shard], row, expected, actual)
    return lines, element


def _sight(case: Case, positions: Positions, row: int, head: int, kv: bool, dialect: str) -> list[str]:
    """What that row has to do with the others: for a query the keys it sees, for a key the queries that see it."""
    masks = branch_masks(case, dialect)
    group = case.heads // case.kv_heads
    first_own = joint_and_own(case)[1].start
    differ = "queries" in case.terms or "joint" in case.terms
    if kv:
        seen = np.asarray(masks[:, head * group : (head + 1) * group, :, first_own + row].any(axis=1))
        whom, what, owners = "is seen by queries", f"the key at position {row}", positions.queries
    else:
        seen = masks[:, head, row, :]
        whom, what, owners = "sees keys", f"the query at position {row}", positions.keys
        if differ:
            queries, _ = reference.rows(case.queries, case.keys, case.document_lengths, case.query_lengths)
            what = f"query {row}, at position {queries.position[row]} of {case.keys} keys,"
    others = np.flatnonzero(seen.any(axis=0))
    if not len(others):
        return [f"  {what} {'is seen by no query' if kv else 'sees nothing: out is 0 and lse -inf'}"]
    own, _ = _owner(positions.keys if kv else positions.queries, row)
    parts = []
    for other in others[:_SHOWN]:
        which = [str(k) for k in range(len(masks)) if seen[k, other]]
        in_branches = "" if len(masks) == 1 else f"; branch {' and '.join(which)}"
        other = int(other) if kv else int(other) - first_own
        if not kv and not 0 <= other < case.length:
            parts.append(f"{other + first_own} (every rank)")
            continue
        owner, _ = _owner(owners, other)
        hops = (own - owner) % case.shards if not kv else (owner - own) % case.shards
        via = "" if hops == 0 else f", {hops} hop{'s' if hops > 1 else ''} away"
        parts.append(f"{other if kv else other + first_own} (rank {case.ranks[owner]}{via}{in_branches})")
    more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
    return [f"  {what} {whom} {', '.join(parts)}{more}"]


def _owner(positions: Sequence[np.ndarray], position: int) -> tuple[int, int]:
    for shard, owned in enumerate(positions):
        rows = np.flatnonzero(np.asarray(owned) == position)
        if len(rows):
            return shard, int(rows[0])
    raise ValueError(f"no shard owns position {position}")


def _times(share: float) -> str:
    return f"{share:.3g} times" if share < 1000 else f"10^{np.log10(share):.0f} times"
