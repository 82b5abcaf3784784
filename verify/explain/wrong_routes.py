"""Wrong routes of dK and dV, from the ranks that computed them back to the owner of the keys."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np

from attention_gate.verify.explain.backward_parts import Grads, Parts
from attention_gate.verify.explain.failing_case import Guess, Setting


def sent_wrongly(s: Setting, right: Parts) -> Iterator[Guess]:
    """Wrong formulas of the gradients of this kind."""
    routes = _Routes(s, right)
    yield (
        "with dK and dV of the next rank's keys: they stop one hop before their owner",
        partial(routes.of_neighbour, 1),
    )
    yield (
        "with dK and dV of the previous rank's keys: they stop one hop before their owner",
        partial(routes.of_neighbour, -1),
    )
    yield "with dK and dV that travel against the ring", routes.against_the_ring
    if s.case.is_causal:
        # What a rank added before a rank that skips is lost there; only later ranks' contributions come home.
        yield (
            "with dK and dV lost where a rank skips a masked block: it passes zeros on instead of the accumulated dK "
            "and dV",
            lambda: right.of_queries(np.broadcast_to(s.owner == 0, s.hop.shape)),
        )
    yield "with the rank's own keys and values at every hop of the backward pass", routes.with_own_blocks


class _Routes:
    """Where each rank's dK and dV go.

    Each formula is None where it needs shards of equal lengths and the case has others.
    """

    _NAMES = ("key.grad", "value.grad")

    def __init__(self, s: Setting, right: Parts) -> None:
        self._s, self._right = s, right
        self._equal = len({len(rows) for rows in s.positions}) == 1

    def of_neighbour(self, step: int) -> Grads | None:
        """Each rank returns the gradients of the keys of the rank ``step`` ahead."""
        if not self._equal:
            return None
        found = {name: np.empty_like(self._right.all[name]) for name in self._NAMES}
        for rank, rows in enumerate(self._s.positions):
            other = self._s.positions[(rank + step) % self._s.ranks]
            for name in self._NAMES:
                found[name][:, rows] = self._right.all[name][:, other]
        return found

    def against_the_ring(self) -> Grads | None:
        """Accumulators go to the rank before, while the blocks go to the rank after."""
        if not self._equal:
            return None
        ranks, names = self._s.ranks, self._NAMES
        travelling = [self._contributions(rank, rank) for rank in range(ranks)]
        for step in range(1, ranks):
            added = [self._contributions(rank, (rank - step) % ranks) for rank in range(ranks)]
            came = [travelling[(rank + 1) % ranks] for rank in range(ranks)]
            travelling = [
                {name: own[name] + other[name] for name in names} for own, other in zip(added, came, strict=True)
            ]
        found = {name: np.zeros_like(self._right.all[name]) for name in names}
        for rank, rows in enumerate(self._s.positions):
            for name in names:
                found[name][:, rows] = travelling[(rank + 1) % ranks][name]
        return found

    def with_own_blocks(self) -> Grads | None:
        """Every block is computed with the rank's own keys and values, under the mask of the right block."""
        if not self._equal:
            return None
        s = self._s
        found = {name: np.zeros_like(array) for name, array in self._right.all.items()}
        for rank, rows in enumerate(s.positions):
            key, value = s.inputs.key.copy(), s.inputs.value.copy()
            for other in s.positions:
                key[:, other], value[:, other] = s.inputs.key[:, rows], s.inputs.value[:, rows]
            parts = Parts(s, key=key, value=value)
            keep = (s.owner == rank)[:, None]
            part = {"query.grad": parts.dq(parts.dS * keep), **parts.of_queries(keep)}
            found = {name: found[name] + part[name] for name in found}
        return found

    def _contributions(self, rank: int, source: int) -> Grads:
        """What the queries of a rank give to the block of another, (batch, rows of that block, kv_heads, dim)."""
        keep = (self._s.owner[:, None] == rank) & (self._s.owner == source)
        found = self._right.of_queries(keep)
        return {name: found[name][:, self._s.positions[source]] for name in self._NAMES}
