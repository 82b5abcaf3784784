"""Tiles as index tensors: what one batched, padded computation needs to serve all the tiles of a branch at once."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from attention_gate.impls.tiling import Layout, Tile


class Places(NamedTuple):
    """The head of each problem (problems, 1) and the positions of its queries and keys (problems, queries or keys)."""

    head: Tensor
    query: Tensor
    key: Tensor


@dataclass(frozen=True)
class Work:
    """Dense problems of one branch, padded to one size so that a few batched operations compute them all.

    A problem is one head's share of one tile. Padding repeats the problem's own last row, so that whatever a row holds,
    NaN included, stays within the problem; `visible` keeps repeated rows from counting.
    """

    query_index: Tensor  # (problems, queries): the row of each query in (local_length * heads) rows
    key_index: Tensor  # (problems, keys): the row of each key in the block of keys
    visible: Tensor | None  # (problems, queries): how many leading keys each query sees; None when all see all
    reach: tuple[int, ...]  # (queries): the largest entry of each column of `visible`
    before: Tensor | None  # (problems, queries): how many leading keys are too far back for each; None when none is
    places: Places | None  # where heads, queries and keys stand; None where no score depends on it
    kept: Tensor | None  # which of the flattened (problems * queries) are not padding; None when none is
    rows: Tensor  # the row that each kept query belongs to


def batch_tiles(
    tiles: Iterable[Tile],
    layout: Layout,
    query_origin: int,
    key_origin: int,
    lookup: Tensor | None,
    device: torch.device,
    needs_places: bool = False,
) -> Work | None:
    """Return the work that computes all `tiles` of a branch, or None when there are none.

    Row 0 of the caller's queries is that of `query_origin`, and so with keys; `lookup` says where a (row, kv head) of
    the keys lies in the caller's block, None when the block is all of them in order. Places are there if
    `needs_places`.
    """
    group_size = layout.heads // layout.kv_heads
    of_branch = list(tiles)
    if not of_branch:
        return None
    step = of_branch[0].queries.step
    problems = [
        (head, tile.queries.start, len(tile.queries), tile.keys.start, len(tile.keys), tile.shift)
        for tile in of_branch
        for head in tile.heads
    ]
    columns = torch.tensor(problems, device="cpu").T.unsqueeze(-1).unbind()
    head, first_query, query_count, first_key, key_count, shift = columns
    query_slot = torch.arange(max(problem[2] for problem in problems), device="cpu")
    key_slot = torch.arange(max(problem[4] for problem in problems), device="cpu")
    query_position = first_query + step * torch.minimum(query_slot, query_count - 1)
    key_position = first_key + step * torch.minimum(key_slot, key_count - 1)
    query_index = (query_position - shift - query_origin) * layout.heads + head
    key_index = (key_position - key_origin) * layout.kv_heads + head // group_size
    if lookup is not None:
        # A key that a mask hides from all queries of its kv head is not in the block: any row serves in its place.
        key_index = lookup[key_index].clamp(min=0)

    left, right = layout.reach
    visible = key_count.expand_as(query_index)
    if right is not None:
        visible = torch.minimum(visible, (query_position + right - first_key).div(step, rounding_mode="floor") + 1)
    is_query = query_slot < query_count
    visible = visible.clamp(min=0).masked_fill(~is_query, 0)
    is_padded, is_masked = not bool(is_query.all()), bool((visible < len(key_slot)).any())
    before = None
    if left is not None:
        too_far = (query_position - left - first_key + step - 1).div(step, rounding_mode="floor").clamp(min=0)
        before = too_far.to(device) if bool((too_far > 0).any()) else None
    kept = is_query.flatten().nonzero().flatten() if is_padded else None
    rows = query_index.flatten() if kept is None else query_index.flatten()[kept]
    places = Places(head.to(device), query_position.to(device), key_position.to(device)) if needs_places else None
    return Work(
        query_index.to(device),
        key_index.to(device),
        visible.to(device) if is_masked else None,
        tuple(visible.amax(0).tolist()),
        before,
        places,
        kept.to(device) if kept is not None else None,
        rows.to(device),
    )
