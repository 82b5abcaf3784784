"""The discrete options of a case as a space of axes, and rows of that space in which every pair of values occurs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from attention_gate.verify.case.styles import BUFFERS, DATA_STYLES, MIXED, OF_GRADIENTS, UNDER_AUTOCAST, UPSTREAMS
from attention_gate.verify.case.term_axes import AXIS_OF, INTERLEAVES, OFF, TERM_AXES, UNEVEN_QUERIES, terms_together
from attention_gate.verify.target.choices import COMPILED
from attention_gate.verify.target.layouts import INTERLEAVED
from attention_gate.verify.target.target import Target

#: An axis' values from the simplest on.
Space = Mapping[str, Sequence[Any]]
Row = dict[str, Any]
_Axes = tuple[tuple[str, tuple[Any, ...]], ...]

REQUIRES_GRAD = ("qkv", "q", "k", "v", "qk", "qv", "kv")
HEADS = ("single", "several", "grouped", "many", "many grouped", "large groups")
_GROUPED = ("grouped", "many grouped", "large groups")

#: Dtypes that autocast to bfloat16 takes beside each other: under it torch.cat refuses float64 and float16.
_CAST = ("float32", "bfloat16")

#: The axes of sizes, each narrowed to what is small: what most checks keep to.
SMALL: Space = {
    "rows": ("small",),
    "heads": ("single", "several", "grouped"),
    "head_dim": ("small",),
    "value_dim": ("same", "different"),
    "batch": ("few",),
}


def space(target: Target, world_sizes: Sequence[int], **fixed: Sequence[Any]) -> dict[str, tuple[Any, ...]]:
    """The options that the target supports, in the worlds that are asked for; ``fixed`` narrows axes by name."""
    axes: dict[str, Sequence[Any]] = {
        "ranks": tuple(sorted(world_sizes)),
        "mask": tuple("causal" if mask else "full" for mask in sorted(target.masks)),
        "shards": ("even", "uneven", "sparse") if target.uneven else ("even",),
        "rows": ("small", "tiles"),
        "heads": HEADS if target.grouped_query else tuple(heads for heads in HEADS if heads not in _GROUPED),
        "head_dim": ("small", "wide"),
        "value_dim": ("same", "different", "wide") if target.value_dim else ("same",),
        "batch": ("few", "many"),
        "branches": ("dense", "single", "several") if target.branches == "any" else ("dense",),
        "scale": ("default", "given", "zero") if target.scales else ("default",),
        "data": DATA_STYLES,
        "buffers": BUFFERS if target.strides else ("contiguous",),
        "upstream": UPSTREAMS if target.gradients else ("contiguous",),
        "requires_grad": REQUIRES_GRAD if target.gradients else ("",),
        "group": ("default", "sub-group") if target.subgroups and max(world_sizes) > 1 else ("default",),
        "dtype": target.dtypes,
        "caller": _callers(target),
        **{AXIS_OF[name]: TERM_AXES[AXIS_OF[name]] for name in target.terms},
        "interleave": INTERLEAVES if target.layout == INTERLEAVED else (OFF,),
    }
    if "queries" in axes and not target.uneven and target.queries == "sharded":
        axes["queries"] = tuple(value for value in axes["queries"] if value not in UNEVEN_QUERIES)
    for name, values in fixed.items():
        if name in TERM_AXES and name not in axes:
            continue  # a term that the target does not declare
        free = name in ("ranks", "requires_grad")  # a check may ask for values beyond the simple defaults
        axes[name] = tuple(value for value in values if free or value in axes[name])
    axes["ranks"] = tuple(ranks for ranks in axes["ranks"] if ranks >= target.least_ranks)
    return {name: tuple(values) for name, values in axes.items()}


def _callers(target: Target) -> tuple[str, ...]:
    """The ways of calling that the target takes and that show something of it."""
    castable = set(target.dtypes) & set(_CAST)
    mixed = (MIXED,) if target.mixed_dtypes and "autocast" in target.callers and "float32" in castable else ()
    taken = (caller for caller in target.callers if target.gradients or caller not in OF_GRADIENTS)
    taken = (caller for caller in taken if castable or caller not in UNDER_AUTOCAST)
    return (*taken, *mixed, *((COMPILED,) if COMPILED in target.claims else ()))


def feasible(row: Mapping[str, Any], largest_world: int) -> bool:
    """Whether the options of a row can occur together, each so that it changes the call."""
    if row["ranks"] == 1 and row.get("shards", "even") != "even":
        return False
    # Of one head, or of one row, orders of axes are the same; without gradients nothing flows upstream.
    if row.get("buffers") == "heads-first" and (row.get("heads") == "single" or row.get("shards") == "sparse"):
        return False
    if row.get("upstream", "contiguous") != "contiguous" and row.get("requires_grad") == "":
        return False
    if row.get("upstream") == "transposed" and row.get("shards") == "sparse":
        return False
    if row.get("rows") == "tiles" and row.get("shards") == "sparse":
        return False
    if row.get("caller") in UNDER_AUTOCAST and row.get("dtype", "float32") not in _CAST:
        return False
    if row.get("caller") == MIXED and row.get("dtype", "float32") != "float32":
        return False
    if not terms_together(row):
        return False
    return not (row.get("group") == "sub-group" and row["ranks"] >= largest_world)


def _can_be_completed(options: Mapping[str, Any], axes: Space, largest_world: int) -> bool:
    """Whether some row has these options; only the number of ranks can prevent it."""
    ranks = (options["ranks"],) if "ranks" in options else axes["ranks"]
    return any(feasible({**options, "ranks": number}, largest_world) for number in ranks)


def pairs(row: Mapping[str, Any]) -> Iterator[tuple[tuple[str, Any], tuple[str, Any]]]:
    """All pairs of options that occur together in a row."""
    return itertools.combinations(sorted(row.items(), key=lambda item: item[0]), 2)


def feasible_pairs(axes: Space, largest_world: int) -> frozenset[tuple[tuple[str, Any], tuple[str, Any]]]:
    """All pairs of options that can occur together."""
    return _feasible_pairs(_hashable(axes), largest_world)


def covering_rows(axes: Space, largest_world: int) -> list[Row]:
    """Few rows in which every feasible pair of options occurs, by greedy choice; the first row is the simplest one."""
    return [dict(row) for row in _covering_rows(_hashable(axes), largest_world)]


def _hashable(axes: Space) -> _Axes:
    return tuple((name, tuple(values)) for name, values in axes.items())


# Checks share spaces, and a report asks for the pairs of each of them again.
@lru_cache(maxsize=64)
def _feasible_pairs(of: _Axes, largest_world: int) -> frozenset[tuple[tuple[str, Any], tuple[str, Any]]]:
    axes = dict(of)
    return frozenset(
        ((one, a), (other, b))
        for one, other in itertools.combinations(sorted(axes), 2)
        for a in axes[one]
        for b in axes[other]
        if _can_be_completed({one: a, other: b}, axes, largest_world)
    )


@lru_cache(maxsize=64)
def _covering_rows(of: _Axes, largest_world: int) -> tuple[Row, ...]:
    axes = dict(of)
    names = sorted(axes, key=lambda name: -len(axes[name]))
    rows: list[Row] = [{name: axes[name][0] for name in axes}]
    missing = feasible_pairs(axes, largest_world) - set(pairs(rows[0]))
    in_order = sorted(missing, key=repr)
    while missing:
        row: Row = dict(next(pair for pair in in_order if pair in missing))
        for name in names:
            if name not in row:
                row[name] = max(
                    (value for value in axes[name] if _can_be_completed(row | {name: value}, axes, largest_world)),
                    key=lambda value: sum(
                        (min(one, (name, value)), max(one, (name, value))) in missing for one in row.items()
                    ),
                )
        rows.append(row)
        missing -= set(pairs(row))
    return tuple(rows)
