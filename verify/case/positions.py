"""Which rows of keys and of queries each rank has."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

#: What has one row for each query; the rest has one for each key of the sequence.
OF_QUERIES = ("query", "upstream", "out", "lse", "query.grad")


class OwnRows(NamedTuple):
    """The positions of one rank's rows of keys in the sequence, and the numbers of its queries: int64 arrays."""

    keys: np.ndarray
    queries: np.ndarray

    def of(self, name: str) -> np.ndarray:
        """Those that a tensor of that name has rows for."""
        return self.queries if name in OF_QUERIES else self.keys


class Positions(NamedTuple):
    """The same of all ranks, in the order of the shards. ``replicated``: each rank has all queries."""

    keys: tuple[np.ndarray, ...]
    queries: tuple[np.ndarray, ...]
    replicated: bool = False

    @classmethod
    def as_many(cls, owned: Sequence[np.ndarray]) -> Positions:
        """Those of a case with one query for each row of the sequence."""
        return cls(tuple(owned), tuple(owned))

    def of(self, name: str) -> tuple[np.ndarray, ...]:
        """Those that a tensor of that name has rows for."""
        return self.queries if name in OF_QUERIES else self.keys

    def shard(self, shard: int) -> OwnRows:
        """Those of one rank."""
        return OwnRows(self.keys[shard], self.queries[shard])

    def only(self, shard: int) -> Positions:
        """The same, with the queries of one rank alone."""
        queries = (owned if k == shard else owned[:0] for k, owned in enumerate(self.queries))
        return Positions(self.keys, tuple(queries))
