"""Hypothesis strategies for cases: small sizes without built-in divisibility, around a row of options."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.extents import (
    FEWEST_HEADS,
    LARGE_GROUPS,
    LARGEST_SMALL,
    MANY_GROUPED,
    MANY_HEADS,
    MOST_SCORES,
    ROW_TILES,
    WIDE,
)
from attention_gate.verify.case.from_bytes import drawn_from, integers
from attention_gate.verify.case.options import Row, Space, feasible
from attention_gate.verify.case.term_axes import LEAST_LENGTH, LEAST_ROWS, OFF, draw_terms

#: One draw in this many takes an option's simplest value instead of the row's, whatever row was drawn.
_SIMPLEST_IN = 256


@st.composite
def cases(
    draw: st.DrawFn,
    axes: Space,
    rows: Sequence[Row],
    world_sizes: Sequence[int],
    max_rows: int = 6,
    roam: bool = True,
) -> Case:
    """Cases with the options of one of the rows, or half of the time, if they may roam, with any options.

    ``world_sizes`` are the worlds that may be launched; a sub-group is part of one of them. ``max_rows`` bounds the
    rows of the sequence that a rank owns.
    Bytes that are all 0 draw the first value of each axis and small sizes.
    """
    options: Row = dict(drawn_from(draw, rows))
    roams = roam and draw(st.booleans())
    for name in sorted(axes, key="ranks".__eq__):  # the number of ranks last: what stands in its way may be gone
        values = axes[name]
        if len(values) == 1:
            continue
        if roams:
            value = drawn_from(draw, values)
        else:
            value = options[name] if draw(integers(0, _SIMPLEST_IN - 1)) else values[0]
        if feasible(options | {name: value}, max(world_sizes)):
            options[name] = value
    return _case(draw, options, world_sizes, max_rows)


def _case(draw: st.DrawFn, options: Row, world_sizes: Sequence[int], max_rows: int) -> Case:
    ranks = options["ranks"]
    strides = {options["buffers"], options["upstream"]} - {"contiguous"}  # of a single number all are the same
    reordered = bool({"heads-first", "transposed"} & strides) or bool(strides and options["heads"] == "single")
    tiles = options["rows"] == "tiles"
    heads, kv_heads = _heads(draw, options["heads"], FEWEST_HEADS if tiles else max(MANY_HEADS))
    fewest = 2 if reordered and options["shards"] == "sparse" else 1
    batch = _batch(draw, options["batch"], fewest, 3 if tiles or heads > LARGEST_SMALL["heads"] else 6)
    if tiles:
        length = _tiles(draw, options["shards"], ranks, batch * heads)
    else:
        needed = max(LEAST_LENGTH.get(options.get("queries", OFF), 0), LEAST_ROWS.get(options.get("documents", OFF), 0))
        if options["interleave"] == "blocks":
            needed = max(needed, 3)
        length = _length(draw, options["shards"], ranks, max_rows, 2 if reordered else 1 if strides else 0, needed)
    terms = draw_terms(draw, options, length, ranks)
    keys = length + (terms["joint"][1] if terms["joint"] else 0)
    segment_lengths, dilation_rates = _branches(draw, options["branches"], keys)
    least = 2 if "transposed" in strides else 1
    head_dim, value_dim = _dims(draw, options["head_dim"], options["value_dim"], least)
    world_size, group = _group(draw, options["group"], ranks, world_sizes)
    return Case(
        world_size=world_size,
        group=group,
        length=length,
        pass_length=draw(st.booleans()) or bool(length % ranks) or terms["interleave"] is not None,
        batch=batch,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=head_dim,
        value_dim=value_dim,
        segment_lengths=segment_lengths,
        dilation_rates=dilation_rates,
        is_causal=options["mask"] == "causal",
        scale=_scale(draw, options["scale"]),
        **terms,
        dtype=options["dtype"],
        data=options["data"],
        buffers=options["buffers"],
        upstream=options["upstream"],
        requires_grad=options["requires_grad"],
        caller=options["caller"],
        seed=draw(integers(0, 9999)),
    )


def _length(draw: st.DrawFn, shards: str, ranks: int, max_rows: int, least: int, needed: int) -> int:
    """A length with ``least`` rows on each rank, where shards are not sparse, and ``needed`` rows in all."""
    if shards == "sparse":  # fewer rows than ranks: some shards are empty
        return draw(integers(max(min(least, 1), needed), ranks - 1))
    least = max(least, 1, -(-needed // ranks), 2 if needed > 3 else 1)
    if ranks == 1:
        return draw(integers(least, 3 * max_rows))
    length = draw(integers(least * ranks, ranks * (max_rows + 1) - 1))
    left_over = length % ranks
    if shards == "uneven":
        return length if left_over else length + 1
    return length - left_over


def _branches(draw: st.DrawFn, branches: str, length: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    if branches == "dense":
        return (max(length, 1),), (1,)
    drawn: list[tuple[int, int]] = []
    for _ in range(1 if branches == "single" else draw(integers(2, 4))):
        if drawn and draw(integers(0, 4)) == 4:  # a branch that is given twice counts twice
            drawn.append(drawn[0])
            continue
        segment = draw(integers(1, length + 2))
        drawn.append((segment, draw(integers(1, min(segment + 1, 5)))))
    segments, rates = zip(*drawn, strict=True)
    return segments, rates


def _tiles(draw: st.DrawFn, shards: str, ranks: int, width: int) -> int:
    """A length for which each rank owns more rows than a tile has, and perhaps a remainder."""
    longest = max(int((MOST_SCORES / width) ** 0.5), ranks * (ROW_TILES[0] + 1)) // ranks
    tiles = [tile for tile in ROW_TILES if tile < longest]
    tile = drawn_from(draw, [*tiles, *tiles[-1:] * 3])  # the largest that the rest of the case leaves room for
    length = ranks * draw(integers(tile + 1, min(longest, 2 * tile + 8)))
    return length + draw(integers(1, ranks - 1)) if shards == "uneven" else length


def _batch(draw: st.DrawFn, batch: str, fewest: int, most: int) -> int:
    return draw(integers(fewest, 2)) if batch == "few" else draw(integers(3, most))


def _dims(draw: st.DrawFn, key: str, value: str, least: int) -> tuple[int, int]:
    head_dim = draw(integers(least, 5)) if key == "small" else drawn_from(draw, WIDE)
    if value == "same":
        return head_dim, head_dim
    others = integers(least, 6) if value == "different" else st.sampled_from(WIDE)
    return head_dim, draw(others.filter(lambda dim: dim != head_dim))


def _heads(draw: st.DrawFn, heads: str, most: int) -> tuple[int, int]:
    """Query heads and kv heads; those past a tile no more than that."""
    if heads == "single":
        return 1, 1
    if heads == "many":
        count = drawn_from(draw, [count for count in MANY_HEADS if count <= most])
        return count, count
    if heads in ("many grouped", "large groups"):
        pairs = MANY_GROUPED if heads == "many grouped" else LARGE_GROUPS
        return drawn_from(draw, [pair for pair in pairs if pair[0] <= most])
    if heads == "several":
        count = draw(integers(2, 5))
        return count, count
    kv_heads = draw(integers(1, 3))
    return kv_heads * draw(integers(2, 3)), kv_heads


def _scale(draw: st.DrawFn, scale: str) -> float | None:
    if scale == "default":
        return None
    # None that a half type holds: one that was rounded to it on its way is another.
    return 0.0 if scale == "zero" else drawn_from(draw, (0.3, 1.7, -0.7))


def _group(draw: st.DrawFn, group: str, ranks: int, world_sizes: Sequence[int]) -> tuple[int, tuple[int, ...] | None]:
    if group == "default":
        return ranks, None
    world_size = drawn_from(draw, [size for size in sorted(world_sizes) if size > ranks])
    members: list[Any] = [
        subset for subset in itertools.combinations(range(world_size), ranks) if subset != tuple(range(ranks))
    ]
    # Of the groups that are not the first ranks: a rank of the group is then no rank of the world.
    return world_size, drawn_from(draw, members)
