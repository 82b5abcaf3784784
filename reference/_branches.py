"""A branch: segments of w positions, in which every r-th position is selected."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: No sequence is as long.
_BEYOND = 1 << 62


class Branch(NamedTuple):
    """One pair of LongNet's schedule: the sequence cut into segments of w positions, each thinned to every r-th."""

    segment_length: int
    dilation_rate: int


def branches(segment_lengths: Sequence[int], dilation_rates: Sequence[int]) -> tuple[Branch, ...]:
    """Pair segment lengths with dilation rates, and refuse what is not a schedule.

        branches([4, 8], [1, 2])   # (Branch(4, 1), Branch(8, 2))

    Both are sequences of positive integers, Python's or numpy's, of one count, at least 1. Every such pair is legal: a
    segment longer than the sequence, a rate above its segment length, a length that its rate does not divide. Raises
    TypeError for what is not an integer, or is a bool; ValueError for one below 1, for counts that differ or are 0.
    """
    lengths = _positive_integers("segment_lengths", segment_lengths)
    rates = _positive_integers("dilation_rates", dilation_rates)
    if len(lengths) != len(rates):
        raise ValueError(
            "segment_lengths and dilation_rates must have the same count, one of each per branch: "
            f"got {len(lengths)}, {lengths}, and {len(rates)}, {rates}"
        )
    return tuple(map(Branch, lengths, rates))


def selected(branch: Branch, offset: int | NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    """The positions i that a head of this offset selects: (i mod w) mod r == offset.

        selected(Branch(5, 2), 1, 7)   # [False, True, False, True, False, False, True]

    Returns bool (length,); offsets of shape (..., 1) give (..., length).
    """
    return is_selected(branch, offset, np.arange(length))


def is_selected(branch: Branch, offset: int | NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Whether a head of this offset selects these positions, which are not negative."""
    w, r = bounded(branch)
    return positions % w % r == offset


def bounded(branch: Branch) -> Branch:
    """The branch within 64 bits: beyond the last position a larger w or r changes no remainder and no segment."""
    return Branch(min(branch.segment_length, _BEYOND), min(branch.dilation_rate, _BEYOND))


def _positive_integers(name: str, values: Sequence[int]) -> list[int]:
    is_sequence = isinstance(values, Sequence) or (isinstance(values, np.ndarray) and values.ndim > 0)
    if isinstance(values, (str, bytes)) or not is_sequence:
        raise TypeError(f"{name} must be a sequence of positive integers, such as [4, 8], got {values!r}")
    for index, value in enumerate(values):
        if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
            raise TypeError(f"{name}[{index}] must be a positive integer, got {value!r} ({type(value).__name__})")
        if value < 1:
            raise ValueError(f"{name}[{index}] must be a positive integer, got {value}")
    if len(values) == 0:
        raise ValueError(f"{name} must hold at least one positive integer, got {values!r}")
    return [int(value) for value in values]
