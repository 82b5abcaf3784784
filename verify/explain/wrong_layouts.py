"""Wrong formulas of where things lie: tiles that reach into the next head, kv heads by a local ratio, cut shards."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from attention_gate.verify.explain.failing_case import Array, Guess, Setting, summed

#: Columns of a tile.
_TILES = (128, 64, 32, 16, 8)


def placed_wrongly(s: Setting) -> Iterator[Guess]:
    """Wrong formulas of the output of this kind."""
    yield from _heads_by_a_local_ratio(s)
    yield from _cut_in_the_middle(s)
    yield from tails_in_the_next_head({"out": s.answer.expected["out"]})


def tails_in_the_next_head(right: dict[str, Array]) -> Iterator[Guess]:
    """Tensors (batch, rows, heads, dim) whose columns past the last whole tile lie in the next head, or are lost."""
    for name, array in right.items():
        width = array.shape[-1]
        for tail in dict.fromkeys(width % tile for tile in _TILES if width > tile and width % tile):
            of = f"{name}: " if len(right) > 1 else ""
            yield (
                f"{of}the columns past the last whole tile written into the next head",
                partial(_moved, name, array, tail),
            )
            yield f"{of}the columns past the last whole tile left at 0", partial(_lost, name, array, tail)


def _moved(name: str, array: Array, tail: int) -> dict[str, Array]:
    moved = np.roll(array[..., -tail:], 1, axis=2)
    return {name: np.concatenate([array[..., :-tail], moved], axis=-1)}


def _lost(name: str, array: Array, tail: int) -> dict[str, Array]:
    found = array.copy()
    found[..., -tail:] = 0.0
    return {name: found}


def _heads_by_a_local_ratio(s: Setting) -> Iterator[Guess]:
    case = s.case
    own = case.heads // s.ranks
    if s.ranks == 1 or case.heads % s.ranks or case.kv_heads == 1:
        return
    heads = np.arange(case.heads) % own // max(1, own // case.kv_heads) % case.kv_heads
    yield (
        "the ratio of query heads to kv heads taken locally: each rank has some of the query heads and all kv heads",
        lambda: s.attend(summed(s.masks), key=s.inputs.key[:, :, heads], value=s.inputs.value[:, :, heads]),
    )


def _cut_in_the_middle(s: Setting) -> Iterator[Guess]:
    """Of layouts that give each rank two runs of rows, as zigzag does."""
    runs = [np.split(owned, np.flatnonzero(np.diff(owned) != 1) + 1) for owned in s.positions]
    if not any(len(each) == 2 and len(each[0]) != len(each[1]) for each in runs):
        return

    def cut(rank: int) -> Array:
        owned = s.positions[rank]
        if len(runs[rank]) != 2:
            return owned
        middle = len(owned) // 2
        first, second = (run[0] for run in runs[rank])
        return np.concatenate([first + np.arange(middle), second + np.arange(len(owned) - middle)])

    def attended(rows: bool, keys: bool) -> dict[str, Array] | None:
        masks = s.assembled(
            s.sight(segment_of=lambda positions: np.minimum(positions, s.case.length - 1)),
            row_labels=cut if rows else None,
            key_labels=(lambda _, source: cut(source)) if keys else None,
        )
        return None if masks is None else s.attend(summed(masks))

    for rows, keys in ((True, True), (True, False), (False, True)):
        yield (
            "each shard cut in its middle into two chunks, though its chunks differ by a row",
            partial(attended, rows, keys),
        )
