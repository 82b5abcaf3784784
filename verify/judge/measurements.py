"""What examples measured beside their verdicts: budgets by tensor, bytes by pass, counts by ranks and dtype."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from attention_gate.verify.case.case import Case


@dataclass(frozen=True)
class Cell:
    """Examples over that many ranks in that dtype, and the largest share of an error budget that one used."""

    ranks: int
    dtype: str
    examples: int
    worst: float | None


@dataclass(frozen=True)
class TensorBudget:
    """The largest share of its error budget that a tensor used over that many ranks in that dtype."""

    tensor: str
    ranks: int
    dtype: str
    worst: float


@dataclass(frozen=True)
class BytesMoved:
    """What a rank sent or received in a pass, the larger, beside what a dense ring moves and what must move at least.

    Of all ranks and examples the one that is farthest above the least.
    """

    ranks: int
    stage: str
    moved: int
    ring: float
    least: float

    @property
    def excess(self) -> float:
        """How many times the least."""
        return self.moved / self.least if self.least else float(self.moved > 0)


@dataclass(frozen=True)
class Measured:
    """All that was measured in one check's examples, those of the failing example's reduction left out."""

    cells: tuple[Cell, ...] = ()
    budgets: tuple[TensorBudget, ...] = ()
    traffic: tuple[BytesMoved, ...] = ()


class Tally:
    """Collects what examples measure.

    >>> tally = Tally()
    >>> tally.add(case, verdict.budget_used, verdict.shares, verdict.traffic)
    >>> tally.measured()
    """

    def __init__(self) -> None:
        self._cells: dict[tuple[int, str], Cell] = {}
        self._budgets: dict[tuple[str, int, str], float] = {}
        self._traffic: dict[tuple[int, str], BytesMoved] = {}

    def add(
        self, case: Case, budget_used: float, shares: Mapping[str, float], traffic: tuple[BytesMoved, ...] = ()
    ) -> None:
        """Add one example: the share of all budgets, those of the tensors, the bytes."""
        place = (case.shards, case.dtype)
        before = self._cells.get(place, Cell(*place, 0, None))
        worst = max(before.worst or 0.0, budget_used) if math.isfinite(budget_used) else before.worst
        self._cells[place] = Cell(*place, before.examples + 1, worst)
        for name, share in shares.items():
            if math.isfinite(share):
                key = (name, *place)
                self._budgets[key] = max(self._budgets.get(key, 0.0), share)
        for one in traffic:
            kept = self._traffic.get((one.ranks, one.stage))
            if kept is None or one.excess > kept.excess:
                self._traffic[one.ranks, one.stage] = one

    def measured(self) -> Measured:
        """All of it, in order."""
        return Measured(
            tuple(cell for _, cell in sorted(self._cells.items())),
            tuple(TensorBudget(*key, worst) for key, worst in sorted(self._budgets.items())),
            tuple(moved for _, moved in sorted(self._traffic.items())),
        )
