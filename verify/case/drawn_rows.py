"""The tensors of a case as the sampled oracle reads them: rows drawn when they are asked for, and never kept."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.data import Name, rows


@dataclass(frozen=True)
class DrawnRows:
    """A reference.RowSource of one tensor: ``DrawnRows(case, "key")[:, positions]``."""

    case: Case
    name: Name

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """batch, length, heads or kv_heads, dim."""
        case = self.case
        heads = case.kv_heads if self.name in ("key", "value") else case.heads
        dim = case.value_dim if self.name in ("value", "upstream") else case.head_dim
        return case.batch, case.length, heads, dim

    def __getitem__(self, at: tuple[slice, np.ndarray]) -> np.ndarray:
        _, positions = at
        return rows(self.case, self.name, positions)


def sources(case: Case) -> tuple[DrawnRows, DrawnRows, DrawnRows, DrawnRows]:
    """query, key, value and upstream gradient.

    Raises ValueError for a case with rows that every rank has or with a number of queries of its own: rows are drawn by
    their position in the one sequence.
    """
    for name in ("joint", "query_length"):
        if (given := getattr(case, name)) is not None:
            raise ValueError(f"the case has {name}={given!r}; sampled rows are judged without it: it must be None")
    return tuple(DrawnRows(case, name) for name in ("query", "key", "value", "upstream"))  # type: ignore[return-value]
