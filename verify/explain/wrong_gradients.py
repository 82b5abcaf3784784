"""Wrong formulas for the gradients, each a wrong way to put together what the blocks contribute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property, partial

import numpy as np

from attention_gate import reference
from attention_gate.verify.explain.failing_case import Array, Setting, by_head
from attention_gate.verify.explain.wrong_layouts import tails_in_the_next_head

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


@np.errstate(all="ignore")
def backward_guesses(s: Setting) -> Iterator[tuple[str, Callable[[], Grads | None]]]:
    """All wrong formulas of the gradients; tensors that a formula does not give are as they should be."""
    if s.dialect != "longnet":
        return
    right = Parts(s)
    yield from _normalised(s, right)
    yield from _grouped(s, right)
    yield from _blocks(s, right)
    if s.ranks > 1:
        yield from _travelling(s, right)
    yield from _read_wrongly(s)
    for words, formula in tails_in_the_next_head(right.all):
        yield f"with {words}", formula


def _normalised(s: Setting, right: Parts) -> Iterator[tuple[str, Callable[[], Grads | None]]]:
    for blocks in ("blocks", "hops", "branches"):
        yield (
            "with each block normalised by its own lse instead of the lse of all keys",
            partial(lambda blocks: Parts(s, own_lse=blocks).all, blocks),
        )
    for words, factor in (("a base-2 logarithm", np.log(2.0)), ("one to be turned into base 2", np.log2(np.e))):
        yield (
            f"with the lse taken for {words} in the backward pass alone",
            partial(lambda factor: Parts(s, lse_factor=factor).all, factor),
        )
    yield (
        "for an upstream gradient of ones: the given one is ignored",
        lambda: Parts(s, upstream=np.ones_like(s.inputs.upstream)).all,
    )
    yield "without the term D (dS = P dP)", lambda: Parts(s, delta=0.0).all
    yield "without the scale in dK", lambda: {"key.grad": right.dk(right.dS, 1.0)}
    yield "without the scale in dQ", lambda: {"query.grad": right.dq(right.dS, 1.0)}
    yield (
        "without the scale in dQ and dK",
        lambda: {
            "query.grad": right.dq(right.dS, 1.0),
            "key.grad": right.dk(right.dS, 1.0),
        },
    )
    if s.case.scale is not None:
        yield "with the default scale in the backward pass", lambda: Parts(s, scale=s.case.head_dim**-0.5).all
    if len(s.pairs) > 1:
        yield "with the branches' weights detached", lambda: _detached(s)
    if s.case.is_causal:
        yield "with no causal mask in the backward pass", lambda: _other_mask(s)


def _detached(s: Setting) -> Grads:
    lse = s.answer.expected["lse"]
    total: Grads = {}
    inputs = (s.inputs.query, s.inputs.key, s.inputs.value)
    for mask in s.masks:
        _, own = reference.weights(inputs[0], inputs[1], mask, s.scale)
        P = np.where(np.isneginf(own), 0.0, np.exp(own - lse)).swapaxes(1, 2)[..., None]
        part = reference.attention_gradients(*inputs, mask, P * s.inputs.upstream, s.scale)
        for name, grad in zip(("query.grad", "key.grad", "value.grad"), part, strict=True):
            total[name] = total.get(name, 0.0) + grad
    return total


def _other_mask(s: Setting) -> Grads:
    return Parts(s, masks=reference.branch_masks(s.case.length, s.case.heads, s.pairs, False, s.dialect)).all


def _grouped(s: Setting, right: Parts) -> Iterator[tuple[str, Callable[[], Grads | None]]]:
    case = s.case
    group = case.heads // case.kv_heads
    if group == 1:
        return

    def each(combine: Callable[[Array], Array]) -> Grads:
        """key.grad and value.grad with the heads of (batch, heads, length, dim) combined otherwise."""
        dk = right.scale * (right.dS.sum(axis=0).swapaxes(-1, -2) @ right.Q)
        dv = right.P.sum(axis=0).swapaxes(-1, -2) @ right.dO
        return {"key.grad": combine(dk).swapaxes(1, 2), "value.grad": combine(dv).swapaxes(1, 2)}

    def split(x: Array) -> Array:
        return x.reshape(x.shape[0], case.kv_heads, group, *x.shape[2:])

    yield (
        "with dK and dV averaged over the query heads of a kv head, not summed",
        lambda: each(lambda x: split(x).mean(axis=2)),
    )
    yield "with dK and dV of the first query head of each kv head alone", lambda: each(lambda x: split(x)[:, :, 0])
    yield "with dK and dV of the last query head of each kv head alone", lambda: each(lambda x: split(x)[:, :, -1])
    if case.kv_heads > 1:
        yield (
            "with dK and dV of the query heads h mod kv_heads summed into each kv head",
            lambda: each(lambda x: x.reshape(x.shape[0], group, case.kv_heads, *x.shape[2:]).sum(axis=1)),
        )


def _hops(s: Setting) -> tuple[Array, Array]:
    """The hop on which the key comes to the query (length, length), and the owner of each position."""
    owner = np.zeros(s.case.length, dtype=int)
    for rank, owned in enumerate(s.positions):
        owner[owned] = rank
    return (owner[:, None] - owner) % s.ranks, owner


def _blocks(s: Setting, right: Parts) -> Iterator[tuple[str, Callable[[], Grads | None]]]:
    """Contributions of some blocks alone."""
    hop, owner = _hops(s)
    last = hop == s.ranks - 1
    if s.case.is_causal:  # skipped blocks do not count: the last one that a rank computes is that of rank 0
        last = owner[None, :] == 0
        last = np.broadcast_to(last, hop.shape)
    if len(s.pairs) > 1 or s.ranks > 1:
        yield (
            "with dQ of the last block alone (= for +=)",
            lambda: {"query.grad": right.dq(right.dS[-1:] * last)},
        )
    if len(s.pairs) > 1:
        yield "with dQ of the last hop alone (= for +=)", lambda: {"query.grad": right.dq(right.dS * last)}
        yield "with dQ of the last branch alone (= for +=)", lambda: {"query.grad": right.dq(right.dS[-1:])}
    if s.ranks > 1:
        yield "with dQ of the rank's own keys alone", lambda: {"query.grad": right.dq(right.dS * (hop == 0))}
        yield (
            "with dK and dV of the rank's own queries alone, without the sum over the ranks",
            lambda: right.of_queries(hop == 0),
        )
        yield "with dK and dV without those of the last hop", lambda: right.of_queries(hop != s.ranks - 1)
        yield (
            "with dK and dV divided by the number of ranks",
            lambda: {name: right.all[name] / s.ranks for name in ("key.grad", "value.grad")},
        )
        yield (
            "with all gradients divided by the number of ranks",
            lambda: {name: grad / s.ranks for name, grad in right.all.items()},
        )
        yield (
            "with all gradients multiplied by the number of ranks",
            lambda: {name: grad * s.ranks for name, grad in right.all.items()},
        )
    yield "with dK and dV zero", lambda: {name: 0.0 * right.all[name] for name in ("key.grad", "value.grad")}


def _travelling(s: Setting, right: Parts) -> Iterator[tuple[str, Callable[[], Grads | None]]]:
    """with dK and dV that are sent to their owners on a wrong route."""
    hop, owner = _hops(s)
    routes = _GradientRoutes(s, right, owner)
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
            lambda: right.of_queries(np.broadcast_to(owner[None, :] == 0, hop.shape)),
        )
    yield "with the rank's own keys and values at every hop of the backward pass", routes.with_own_blocks


class _GradientRoutes:
    """Wrong routes of dK and dV from the ranks that computed them back to the owner of the keys.

    Each formula is None where it needs shards of equal lengths and the case has others.
    """

    _NAMES = ("key.grad", "value.grad")

    def __init__(self, s: Setting, right: Parts, owner: Array) -> None:
        self._s, self._right, self._owner = s, right, owner
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
            keep = (self._owner == rank)[:, None]
            part = {"query.grad": parts.dq(parts.dS * keep), **parts.of_queries(keep)}
            found = {name: found[name] + part[name] for name in found}
        return found

    def _contributions(self, rank: int, source: int) -> Grads:
        """What the queries of a rank give to the block of another, (batch, rows of that block, kv_heads, dim)."""
        keep = (self._owner[:, None] == rank) & (self._owner[None, :] == source)
        found = self._right.of_queries(keep)
        return {name: found[name][:, self._s.positions[source]] for name in self._NAMES}


def _read_wrongly(s: Setting) -> Iterator[tuple[str, Callable[[], Grads | None]]]:
    """Upstream gradients that are read as if they lay in memory one after the other."""
    if s.case.upstream in ("contiguous", "expanded"):
        return

    def dense() -> Grads:
        read = np.empty_like(s.inputs.upstream)
        for rows in s.positions:
            read[:, rows] = _as_dense(s.inputs.upstream[:, rows], s.case.upstream)
        return Parts(s, upstream=read).all

    yield "with the upstream gradient read as if it were contiguous", dense


def _as_dense(given: Array, form: str) -> Array:
    """What the memory of a tensor of that form gives when it is read in order, from the tensor's first element."""
    if form == "transposed":
        memory = given.transpose(0, 3, 2, 1).ravel()
    elif form == "sliced":
        wide = np.full((*given.shape[:-1], 2 * given.shape[-1]), 7.25)
        wide[..., ::2] = given
        memory = wide.ravel()
    else:
        memory = given.ravel()
    return memory[: given.size].reshape(given.shape)
