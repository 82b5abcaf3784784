"""A failure at a great length, brought back to a short one: from which length on it fails."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from attention_gate.verify.long.long_cases import SHORTEST

#: Lengths that are tried between the longest power of two that passes and the shortest that fails.
PROBES = 12


@dataclass(frozen=True)
class Shortest:
    """``fails``: the shortest length that was seen to fail; ``passes``: the longest shorter one that passed, if any."""

    fails: int
    passes: int | None

    def words(self) -> str:
        """From which length on it fails, as far as that was found."""
        if self.passes is None:
            return f"it fails at length {self.fails} already"
        if self.passes == self.fails - 1:
            return f"it fails from length {self.fails} on, and passes at {self.passes}"
        return f"it fails at length {self.fails}, and passes at {self.passes}; lengths between were not tried"


def shortest_failure(fails: Callable[[int], bool], length: int, *, probes: int = PROBES) -> Shortest:
    """Find the shortest length that fails, of a failure at this one.

    Powers of two come first, from below, as the shorter half of the lengths costs less than the longest alone; then
    the range between the last that passes and the first that fails is halved. That assumes what is usual, that longer
    sequences fail too; what is returned was tried in any case.
    """
    passes: int | None = None
    tried = SHORTEST
    while tried < length:
        if fails(tried):
            break
        passes, tried = tried, 2 * tried
    failing = min(tried, length)
    for _ in range(probes):
        if passes is None or passes == failing - 1:
            break
        middle = (passes + failing) // 2
        if fails(middle):
            failing = middle
        else:
            passes = middle
    return Shortest(failing, passes)
