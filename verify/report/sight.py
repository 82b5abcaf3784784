"""Who sees whom: queries by keys, coloured by the rank that a key comes from, and the wrong element marked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.masks import branch_masks, joint_and_own
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.report import colours
from attention_gate.verify.report.filling import filled
from attention_gate.verify.world.finding import Finding

#: Rows and columns that are drawn; of a longer sequence those around the wrong element.
MOST = 32

_CELL, _LEFT, _TOP = 18.0, 92.0, 58.0


@dataclass(frozen=True)
class Sight:
    """What is drawn: how often each query sees each key, which rank has each, and what is wrong.

    ``seen`` is (queries, keys); ``of_queries`` and ``of_keys`` are the global ranks that have them, None for all of
    them. ``query`` and ``key`` are the marked row and column, None for none; ``note`` stands below, in lines.
    """

    title: str
    seen: np.ndarray
    of_queries: Sequence[int | None]
    of_keys: Sequence[int | None]
    query: int | None = None
    key: int | None = None
    note: str = ""


@dataclass(frozen=True)
class Square:
    """A cell of the picture: its place, its colour, the number in it, what it says under the pointer."""

    x: float
    y: float
    colour: str
    number: str
    text: str


def of_case(title: str, case: Case, positions: Positions, *, dialect: str = "longnet", head: int = 0) -> Sight:
    """What one head of a case sees, and which rank has which rows."""
    _, own = joint_and_own(case)
    seen = branch_masks(case, dialect)[:, head].sum(axis=0)
    of_queries = [None] * case.queries if positions.replicated else _owners(case, positions.queries, case.queries)
    of_keys: list[int | None] = [None] * case.keys
    of_keys[own] = _owners(case, positions.keys, case.length)
    return Sight(title, seen, of_queries, of_keys)


def _owners(case: Case, owned: Sequence[np.ndarray], rows: int) -> list[int | None]:
    found: list[int | None] = [None] * rows
    for rank, positions in zip(case.ranks, owned, strict=True):
        for position in positions:
            found[int(position)] = rank
    return found


def of_finding(case: Case, finding: Finding, positions: Positions, dialect: str) -> Sight | None:
    """The sight of the head whose element is wrong, that element marked; None if no element is."""
    element = finding.element
    if element is None:
        return None
    of_keys = finding.tensor in ("key.grad", "value.grad")
    head = element.head * (case.heads // case.kv_heads) if of_keys else element.head
    what = "key" if of_keys else "query"
    title = f"head {head}: what each query sees; {what} {element.position} is wrong"
    index = f"batch {element.batch}, {what} {element.position}, {'kv head' if of_keys else 'head'} {element.head}"
    index += "" if element.dim is None else f", dim {element.dim}"
    note = f"{finding.tensor}[{index}]\nexpected {element.expected:.9g}, returned {element.got:.9g}"
    sight = of_case(title, case, positions, dialect=dialect, head=head)
    if of_keys:
        return replace(sight, key=joint_and_own(case)[1].start + element.position, note=note)
    return replace(sight, query=element.position, note=note)


def svg(sight: Sight, *, standalone: bool = True) -> str:
    """The picture as SVG; without ``standalone`` for a page that has the colours."""
    rows, columns = _window(len(sight.of_queries), sight.query), _window(len(sight.of_keys), sight.key)
    squares = []
    for row, query in enumerate(rows):
        for column, key in enumerate(columns):
            if times := int(sight.seen[query, key]):
                words = f"query {query} ({_rank(sight.of_queries[query])}) sees key {key} ({_rank(sight.of_keys[key])})"
                words += "" if times == 1 else f" {times} times"
                place = _LEFT + column * _CELL, _TOP + row * _CELL
                squares.append(Square(*place, _colour(sight.of_keys[key]), str(times) if times > 1 else "", words))
    shown = dict.fromkeys(sight.of_keys[key] for key in columns)
    wide, high = len(columns) * _CELL, len(rows) * _CELL
    return filled(
        "sight.svg.j2",
        {
            "sight": sight,
            "squares": squares,
            "bands": _bands([sight.of_queries[query] for query in rows]),
            "key_bands": _bands([sight.of_keys[key] for key in columns]),
            "cut": _cut(columns, len(sight.of_keys), "keys") + _cut(rows, len(sight.of_queries), "; queries"),
            "ranks": [(_rank(rank), _colour(rank)) for rank in shown],
            "cell": _CELL,
            "left": _LEFT,
            "top": _TOP,
            "wide": wide,
            "high": high,
            "width": max(_LEFT + wide + 20, 400, 8 + 100 * len(shown), 20 + 7.5 * len(sight.title)),
            "height": _TOP + high + 44 + 18 * len(sight.note.splitlines()),
            "marked_row": None if sight.query is None else _TOP + (sight.query - rows[0]) * _CELL,
            "marked_column": None if sight.key is None else _LEFT + (sight.key - columns[0]) * _CELL,
            "standalone": standalone,
            "light": colours.css(dark=False),
            "dark": colours.css(dark=True),
        },
    )


def _window(count: int, centre: int | None) -> range:
    """The rows or columns that are drawn."""
    first = max(0, min((centre or 0) - MOST // 2, count - MOST))
    return range(first, min(count, first + MOST))


def _cut(shown: range, count: int, what: str) -> str:
    return "" if len(shown) == count else f"{what} {shown[0]} to {shown[-1]} of {count}"


def _rank(rank: int | None) -> str:
    return "every rank" if rank is None else f"rank {rank}"


def _colour(rank: int | None) -> str:
    return "var(--faint)" if rank is None else colours.of_rank(rank)


def _bands(owned: Sequence[int | None]) -> list[tuple[str, int, int, str]]:
    """Runs of rows of one rank: the rank, where the run starts, how long it is, its colour."""
    found: list[tuple[str, int, int, str]] = []
    for place, rank in enumerate(owned):
        if found and found[-1][0] == _rank(rank):
            found[-1] = (*found[-1][:2], found[-1][2] + 1, found[-1][3])
        else:
            found.append((_rank(rank), place, 1, _colour(rank)))
    return found
