"""The optional terms as axes of options: their values, how a case of each is drawn, and which value a case has."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.from_bytes import drawn_from, integers
from attention_gate.verify.case.styles import JOINT_PLACES, MASK_NAMES, SINKS
from attention_gate.verify.target.choices import TERMS

OFF = "none"

#: The axis of each term, its values from the simplest on.
TERM_AXES: dict[str, tuple[str, ...]] = {
    "window": (OFF, "own position", "narrow", "as a shard", "wide"),
    "documents": (OFF, "on shards", "across shards", "over three shards", "single rows", "rows left over"),
    "mask function": (OFF, *MASK_NAMES),
    "softcap": (OFF, "given"),
    "slopes": (OFF, "given"),
    "sink": (OFF, *SINKS),
    "queries": (OFF, "as many", "one", "one fewer", "fewer", "more", "no queries"),
    "joint": (OFF, *JOINT_PLACES),
}

#: The axes of each term that a target declares.
AXIS_OF = {name: "mask function" if name == "mask" else name for name in TERMS}

#: Numbers of queries that cannot be split into equal shards of several ranks.
UNEVEN_QUERIES = ("one", "one fewer")

#: Blocks of the interleaved layout: of a row, of some, longer than the sequence. No term: each case has one of them.
INTERLEAVES = ("rows", "blocks", "whole")

#: The fewest rows of the sequence that a number of queries needs to be what it is called.
LEAST_LENGTH = {"as many": 1, "one": 2, "one fewer": 3, "fewer": 4}

#: The fewest ranks over which documents can lie as they are called, and the fewest rows.
FEWEST_RANKS = {"across shards": 2, "over three shards": 3}
LEAST_ROWS = FEWEST_RANKS | {"single rows": 1}

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
        "queries": _queries_of(case),
        "joint": OFF if case.joint is None else case.joint[0],
        "interleave": _interleave_of(case),
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


def _queries_of(case: Case) -> str:
    if case.query_length is None:
        return OFF
    n_q, n = case.query_length, case.length
    if n_q >= n:
        return "no queries" if n_q == 0 else "as many" if n_q == n else "more"
    return "no queries" if n_q == 0 else "one" if n_q == 1 else "one fewer" if n_q == n - 1 else "fewer"


def _interleave_of(case: Case) -> str:
    if case.interleave is None:
        return OFF
    return "rows" if case.interleave == 1 else "blocks" if case.interleave < case.length else "whole"


def terms_together(row: Mapping[str, Any]) -> bool:
    """Whether the terms of a row of options can occur together, and beside its branches and its shards."""
    queries, joint = row.get("queries", OFF), row.get("joint", OFF)
    if (queries not in (OFF, "as many") or joint != OFF) and row.get("branches", "dense") != "dense":
        return False
    if queries == "as many" and row.get("documents", OFF) != OFF and row.get("branches", "dense") != "dense":
        return False
    if joint != OFF and row.get("documents", OFF) != OFF:
        return False
    if queries == "more" and row.get("mask function", OFF) != OFF:
        return False
    sparse = row.get("shards", "even") == "sparse"
    # Of fewer rows than ranks each lies on a rank of its own, and there must be a rank more.
    if row["ranks"] < FEWEST_RANKS.get(row.get("documents", OFF), 0) + sparse:
        return False
    if sparse:
        return row["ranks"] > LEAST_LENGTH.get(queries, 0) and not (
            row.get("interleave") == "blocks" and row["ranks"] < 4
        )
    return True


def _documents_of(case: Case) -> str:
    if case.document_lengths is None:
        return OFF
    lengths = case.document_lengths
    if sum(lengths) < case.length:
        return "rows left over"
    if 0 in lengths and max(lengths) == 1:
        return "single rows"
    ends = [0, *itertools.accumulate(lengths)]
    inside = [
        sum(start < at < end for at in _boundaries(case.length, case.shards)) for start, end in itertools.pairwise(ends)
    ]
    return ("on shards", "across shards", "over three shards")[min(2, max(inside, default=0))]


def _boundaries(length: int, ranks: int) -> set[int]:
    """The positions at which contiguous shards begin, but for the first."""
    small, larger = divmod(length, ranks)
    return {rank * small + min(rank, larger) for rank in range(1, ranks)} - {0, length}


def draw_terms(draw: st.DrawFn, options: dict[str, Any], length: int, ranks: int) -> dict[str, Any]:
    """The fields of a case that has these values of the terms' axes."""
    sink = options.get("sink", OFF)
    mask = options.get("mask function", OFF)
    documents = _documents(draw, options.get("documents", OFF), length, ranks)
    even = options.get("shards", "even") == "even"
    queries = _queries(draw, options.get("queries", OFF), length, ranks if even else 1)
    return {
        "window": _window(draw, options.get("window", OFF), length, ranks),
        "document_lengths": documents,
        "query_length": queries,
        "query_lengths": _queries_of_documents(draw, queries, documents, mask != OFF),
        "joint": _joint(draw, options.get("joint", OFF)),
        "interleave": _interleave(draw, options.get("interleave", OFF), length),
        "mask": None if mask == OFF else mask,
        "softcap": drawn_from(draw, (0.5, 2.0, 30.0)) if options.get("softcap", OFF) != OFF else None,
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
        largest = draw(integers(0, rows - 1))
    else:
        largest = rows if window == "as a shard" else rows + draw(integers(1, max(1, length - rows)))
    other = draw(st.one_of(integers(0, largest), st.none()))
    pair = (largest, other) if draw(st.booleans()) else (other, largest)
    return (largest, None) if pair == (0, 0) else pair


def _documents(draw: st.DrawFn, documents: str, length: int, ranks: int) -> tuple[int, ...] | None:
    """Documents that end at, one before and one after where shards do, and anywhere else; some have no rows."""
    if documents == OFF:
        return None
    shards = _boundaries(length, ranks)
    if documents == "single rows":
        return _with_an_empty_one(draw, [1] * length)
    near = sorted({at + step for at in shards for step in (-1, 1)} & set(range(length + 1)))
    ends = set(draw(st.lists(st.sampled_from([*near, *range(length + 1)]), max_size=4)))
    if documents == "on shards":
        ends |= shards
    if documents == "across shards" and shards:
        ends -= {drawn_from(draw, sorted(shards))}
    if documents == "over three shards" and len(shards) > 1:
        first = draw(integers(0, len(shards) - 2))
        one, other = sorted(shards)[first : first + 2]
        ends -= set(range(one, other + 1))
    last = length
    if documents == "rows left over":
        last = draw(integers(0, max(0, length - 1)))
        ends = {end for end in ends if end <= last}
    lengths = [after - before for before, after in itertools.pairwise(sorted({0, last} | ends))]
    return _with_an_empty_one(draw, lengths) if draw(integers(0, 3)) == 3 else tuple(lengths)


def _with_an_empty_one(draw: st.DrawFn, lengths: list[int]) -> tuple[int, ...]:
    """The lengths with a document of no rows among them."""
    at = draw(integers(0, len(lengths)))
    return (*lengths[:at], 0, *lengths[at:])


def _queries(draw: st.DrawFn, queries: str, length: int, multiple: int) -> int | None:
    """How many there are; where shards are even those that are fewer or more are a multiple of the ranks."""
    if queries in (OFF, "no queries"):
        return None if queries == OFF else 0
    if queries in ("as many", "one", "one fewer"):
        return {"as many": length, "one": 1, "one fewer": length - 1}[queries]
    if queries == "more":
        return length + multiple * draw(integers(1, 4))
    possible = [count for count in range(2, length - 1) if count % multiple == 0]
    return drawn_from(draw, possible)


def _queries_of_documents(
    draw: st.DrawFn, queries: int | None, documents: tuple[int, ...] | None, masked: bool
) -> tuple[int, ...] | None:
    """How many queries each document has: none, one, fewer or more than keys; under a mask no more."""
    if queries is None or documents is None:
        return None
    found, left = [], queries
    for keys in documents:
        most = min(left, keys) if masked else left
        found.append(min(most, draw(st.sampled_from((keys, keys - 1, keys + 2, 1, 0)).filter(lambda n: n >= 0))))
        left -= found[-1]
    return tuple(found)


def _joint(draw: st.DrawFn, joint: str) -> tuple[str, int] | None:
    return None if joint == OFF else (joint, drawn_from(draw, (1, 2, 3, 5, 0)))


def _interleave(draw: st.DrawFn, interleave: str, length: int) -> int | None:
    if interleave in (OFF, "rows"):
        return None if interleave == OFF else 1
    if interleave == "blocks":
        return draw(integers(2, max(2, min(length - 1, 5))))
    return max(2, length) + draw(integers(0, 3))
