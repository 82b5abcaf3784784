"""The optional terms as axes of options: their values, how a case of each is drawn, and which value a case has."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.styles import MASK_NAMES, SINKS

OFF = "none"

#: The axis of each term, its values from the simplest on.
TERM_AXES: dict[str, tuple[str, ...]] = {
    "window": (OFF, "own position", "narrow", "as a shard", "wide"),
    "documents": (OFF, "on shards", "across shards", "rows left over"),
    "mask function": (OFF, *MASK_NAMES),
    "softcap": (OFF, "given"),
    "slopes": (OFF, "given"),
    "sink": (OFF, *SINKS),
}

#: The axes of each term that a target declares.
AXIS_OF = {name: "mask function" if name == "mask" else name for name in ("window", "documents", "mask", "softcap")}
AXIS_OF |= {name: name for name in ("slopes", "sink")}

#: What a check narrows these axes to that judges none of the terms.
WITHOUT_TERMS = dict.fromkeys(TERM_AXES, (OFF,))


def values_of_terms(case: Case) -> dict[str, str]:
    """Which value of each term's axis a case has."""
    return {
        "window": _window_of(case),
        "documents": _documents_of(case),
        "mask function": case.mask or OFF,
        "softcap": OFF if case.softcap is None else "given",
        "slopes": "given" if case.slopes else OFF,
        "sink": case.sink or OFF,
    }


def _rows(length: int, ranks: int) -> int:
    return max(1, -(-length // ranks))


def _window_of(case: Case) -> str:
    if case.window is None:
        return OFF
    largest = max((bound for bound in case.window if bound is not None), default=case.length)
    rows = _rows(case.length, case.shards)
    if case.window == (0, 0):
        return "own position"
    return "narrow" if largest < rows else "as a shard" if largest == rows else "wide"


def _documents_of(case: Case) -> str:
    if case.document_lengths is None:
        return OFF
    if sum(case.document_lengths) < case.length:
        return "rows left over"
    ends, total = set(), 0
    for length in case.document_lengths:
        total += length
        ends.add(total)
    return "on shards" if _boundaries(case.length, case.shards) <= ends else "across shards"


def _boundaries(length: int, ranks: int) -> set[int]:
    """The positions at which contiguous shards begin, but for the first."""
    small, larger = divmod(length, ranks)
    return {rank * small + min(rank, larger) for rank in range(1, ranks)} - {0, length}


def draw_terms(draw: st.DrawFn, options: dict[str, Any], length: int, ranks: int) -> dict[str, Any]:
    """The fields of a case that has these values of the terms' axes."""
    sink = options.get("sink", OFF)
    mask = options.get("mask function", OFF)
    return {
        "window": _window(draw, options.get("window", OFF), length, ranks),
        "document_lengths": _documents(draw, options.get("documents", OFF), length, ranks),
        "mask": None if mask == OFF else mask,
        "softcap": draw(st.sampled_from((0.5, 2.0, 30.0))) if options.get("softcap", OFF) != OFF else None,
        "slopes": options.get("slopes", OFF) != OFF,
        "sink": None if sink == OFF else sink,
    }


def _window(draw: st.DrawFn, window: str, length: int, ranks: int) -> tuple[int | None, int | None] | None:
    rows = _rows(length, ranks)
    if window == OFF:
        return None
    if window == "own position":
        return 0, 0
    if window == "narrow":
        largest = draw(st.integers(0, rows - 1))
    else:
        largest = rows if window == "as a shard" else rows + draw(st.integers(1, max(1, length - rows)))
    other = draw(st.one_of(st.integers(0, largest), st.none()))
    pair = (largest, other) if draw(st.booleans()) else (other, largest)
    return (largest, None) if pair == (0, 0) else pair


def _documents(draw: st.DrawFn, documents: str, length: int, ranks: int) -> tuple[int, ...] | None:
    """Documents that end at, one before and one after where shards do, and anywhere else; some have no rows."""
    if documents == OFF:
        return None
    shards = _boundaries(length, ranks)
    near = sorted({at + step for at in shards for step in (-1, 1)} & set(range(length + 1)))
    ends = set(draw(st.lists(st.sampled_from([*near, *range(length + 1)]), max_size=4)))
    if documents == "on shards":
        ends |= shards
    if documents == "across shards" and shards:
        ends -= {draw(st.sampled_from(sorted(shards)))}
    last = length
    if documents == "rows left over":
        last = draw(st.integers(0, max(0, length - 1)))
        ends = {end for end in ends if end <= last}
    cuts = sorted({0, last} | ends)
    lengths = [after - before for before, after in itertools.pairwise(cuts)]
    if draw(st.integers(0, 3)) == 3:
        lengths.insert(draw(st.integers(0, len(lengths))), 0)
    return tuple(lengths)
