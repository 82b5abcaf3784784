"""The backward pass of a case taken apart, so that wrong formulas can put its parts together in other ways."""

from __future__ import annotations

from functools import cached_property

import numpy as np

from attention_gate.verify.explain.failing_case import Array, Setting, by_head

Grads = dict[str, Array]


class Parts:
    """The backward pass taken apart: P and dS by branch, and the contributions of each rank's queries to each block."""

    def __init__(
        self,
        s: Setting,
        *,
        scale: float | None = None,
        delta: float = 1.0,
        own_lse: str = "",
        lse_factor: float = 1.0,
        upstream: Array | None = None,
        key: Array | None = None,
        value: Array | None = None,
        masks: Array | None = None,
    ) -> None:
        self.s = s
        case, used = s.case, s.scale if scale is None else scale
        dO_given = s.inputs.upstream if upstream is None else upstream
        k = s.inputs.key if key is None else key
        v = s.inputs.value if value is None else value
        Q, K, V, dO, out = (by_head(x, case.heads) for x in (s.inputs.query, k, v, dO_given, s.answer.expected["out"]))
        lse = lse_factor * s.answer.expected["lse"][..., None]
        self.Q, self.K, self.dO, self.scale = Q, K, dO, used
        scores = used * (Q @ K.swapaxes(-1, -2))
        masks = (s.masks if masks is None else masks)[:, None]
        self.P = np.where(masks, np.exp(scores - lse), 0.0) if not own_lse else self._by_own_lse(scores, own_lse)
        D = delta * (dO * out).sum(axis=-1, keepdims=True)
        self.dS = np.where(masks, self.P * (dO @ V.swapaxes(-1, -2) - D), 0.0)

    def _by_own_lse(self, scores: Array, blocks: str) -> Array:
        """Weights normalised within single blocks: of a hop and a branch ("blocks"), of a branch or of a hop."""
        s = self.s
        weights = np.zeros((len(s.pairs), *scores.shape))
        sources = s.positions if blocks != "branches" else [np.arange(s.case.length)]
        for keys in sources:
            present = np.isin(np.arange(s.case.length), keys)
            masks = (s.masks & present)[:, None]
            terms = np.where(masks, scores, -np.inf)
            axes = (-1,) if blocks != "hops" else (0, -1)
            top = terms.max(axis=axes, keepdims=True, initial=-np.inf)
            top = np.where(np.isneginf(top), 0.0, top)
            terms = np.exp(terms - top)
            total = terms.sum(axis=axes, keepdims=True)
            weights += terms / np.where(total == 0, 1.0, total)
        return weights

    def dq(self, dS: Array, scale: float | None = None) -> Array:
        """The gradient of query of some of dS (branches, batch, heads, length, length)."""
        return ((self.scale if scale is None else scale) * (dS.sum(axis=0) @ self.K)).swapaxes(1, 2)

    def dk(self, dS: Array, scale: float | None = None) -> Array:
        """The gradient of key of some of dS."""
        found = (self.scale if scale is None else scale) * (dS.sum(axis=0).swapaxes(-1, -2) @ self.Q)
        return self.by_kv_head(found)

    def dv(self, P: Array) -> Array:
        """The gradient of value of some of P."""
        return self.by_kv_head(P.sum(axis=0).swapaxes(-1, -2) @ self.dO)

    def by_kv_head(self, array: Array) -> Array:
        """(batch, heads, length, dim) summed over the heads of each kv head."""
        batch, heads, length, dim = array.shape
        kv = self.s.case.kv_heads
        return array.reshape(batch, kv, heads // kv, length, dim).sum(axis=2).swapaxes(1, 2)

    @cached_property
    def all(self) -> Grads:
        """All three gradients."""
        return {"query.grad": self.dq(self.dS), "key.grad": self.dk(self.dS), "value.grad": self.dv(self.P)}

    def of_queries(self, keep: Array) -> Grads:
        """The gradients of key and value from those (query, key) pairs alone, that of query from all."""
        return {"key.grad": self.dk(self.dS * keep), "value.grad": self.dv(self.P * keep)}
