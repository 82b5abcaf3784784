"""Sequences of queries against keys, and as few kernels as compute them: integers only."""

from collections.abc import Iterable
from typing import NamedTuple


class Sequences(NamedTuple):
    """What one kernel computes: sequence by sequence, queries against keys, the last query beside the last key.

    A query sees the keys from `left` before the one beside it to `right` after that; None is without bound. Each sees
    one at least.
    """

    queries: tuple[range, ...]  # runs of this rank's rows, in the order of the sequences
    keys: tuple[range, ...]  # runs of this rank's rows of keys, or of the buffer; no row twice
    query_lengths: tuple[int, ...]
    key_lengths: tuple[int, ...]
    left: int | None
    right: int | None


class _Bound:
    """How far queries see on one side, of sequences that one kernel computes: what none of them needs is no bound."""

    def __init__(self) -> None:
        self.value: int | None = None
        self._least = 0  # a bound as large as this bounds none of those that have none

    def fits(self, value: int | None, longest: int) -> bool:
        """Return whether a sequence in which no query is further than `longest` from a key may have this bound."""
        if value is None or value >= longest:
            return self.value is None or self.value >= longest
        return self.value == value or (self.value is None and value >= self._least)

    def take(self, value: int | None, longest: int) -> None:
        """Add a sequence that fits."""
        if value is None or value >= longest:
            self._least = max(self._least, longest)
        else:
            self.value = value


class SequenceCall:
    """The sequences of one kernel as they are put together."""

    def __init__(self) -> None:
        self._left, self._right = _Bound(), _Bound()
        self._rows: list[range] = []
        self._keys: list[range] = []

    def takes(self, rows: range, keys: range, left: int | None, right: int | None) -> bool:
        """Add a sequence if it fits: with the same bounds, and keys that follow those there are."""
        if self._keys and keys.start < self._keys[-1].stop:
            return False
        bounds = ((self._left, left, len(keys) - 1), (self._right, right, len(rows) - 1))
        if not all(bound.fits(value, longest) for bound, value, longest in bounds):
            return False
        for bound, value, longest in bounds:
            bound.take(value, longest)
        self._rows.append(rows)
        self._keys.append(keys)
        return True

    def made(self) -> Sequences:
        """Return what the kernel computes."""
        queries, keys = (tuple(map(len, each)) for each in (self._rows, self._keys))
        return Sequences(_runs(self._rows), _runs(self._keys), queries, keys, self._left.value, self._right.value)


def _runs(ranges: Iterable[range]) -> tuple[range, ...]:
    """Return ranges in their order, those that go on from each other as one."""
    found: list[range] = []
    for one in ranges:
        if found and found[-1].stop == one.start:
            found[-1] = range(found[-1].start, one.stop)
        else:
            found.append(one)
    return tuple(found)
