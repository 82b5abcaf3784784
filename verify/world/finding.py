"""A finding: something wrong with a target, in words that read as a bug report."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Element:
    """The first wrong element of a tensor: where it is in the whole sequence, and what it should be and is.

    ``head`` is the kv head of the gradients of key and value; ``dim`` is None for the lse, which has none.
    """

    batch: int
    position: int
    head: int
    dim: int | None
    rank: int
    row: int
    expected: float
    got: float


@dataclass(frozen=True)
class Finding:
    """Something wrong with the target: how bad it is, in one sentence what, and the lines that show it.

    ``outcome`` is "fail" (a wrong answer), "crash" or "hang"; ``tensor`` names what was wrong, where that is a
    value, and ``element`` its first wrong element.
    """

    outcome: str
    headline: str
    details: tuple[str, ...] = field(default=())
    tensor: str | None = None
    element: Element | None = None


def ranks(which: list[int] | tuple[int, ...]) -> str:
    """ "rank 2", "ranks 0 and 1", "ranks 0, 1 and 3"."""
    if len(which) == 1:
        return f"rank {which[0]}"
    return f"ranks {', '.join(map(str, which[:-1]))} and {which[-1]}"
