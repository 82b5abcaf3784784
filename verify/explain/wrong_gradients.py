"""Wrong formulas for the gradients, each a wrong way to put together what the blocks contribute."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from attention_gate import reference
from attention_gate.verify.explain.backward_parts import Grads, Parts
from attention_gate.verify.explain.failing_case import Array, Guess, Setting
from attention_gate.verify.explain.wrong_layouts import tails_in_the_next_head
from attention_gate.verify.explain.wrong_routes import sent_wrongly


@np.errstate(all="ignore")
def backward_guesses(s: Setting) -> Iterator[Guess]:
    """All wrong formulas of the gradients; tensors that a formula does not give are as they should be."""
    if s.dialect != "longnet":
        return
    right = Parts(s)
    yield from _normalised(s, right)
    yield from _grouped(s, right)
    yield from _blocks(s, right)
    if s.ranks > 1:
        yield from sent_wrongly(s, right)
    yield from _read_wrongly(s)
    for words, formula in tails_in_the_next_head(right.all):
        yield f"with {words}", formula


def _normalised(s: Setting, right: Parts) -> Iterator[Guess]:
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


def _grouped(s: Setting, right: Parts) -> Iterator[Guess]:
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


def _blocks(s: Setting, right: Parts) -> Iterator[Guess]:
    """Contributions of some blocks alone."""
    last = s.hop == s.ranks - 1
    if s.case.is_causal:  # skipped blocks do not count: the last one that a rank computes is that of rank 0
        last = np.broadcast_to(s.owner == 0, s.hop.shape)
    if len(s.pairs) > 1 or s.ranks > 1:
        yield (
            "with dQ of the last block alone (= for +=)",
            lambda: {"query.grad": right.dq(right.dS[-1:] * last)},
        )
    if len(s.pairs) > 1:
        yield "with dQ of the last hop alone (= for +=)", lambda: {"query.grad": right.dq(right.dS * last)}
        yield "with dQ of the last branch alone (= for +=)", lambda: {"query.grad": right.dq(right.dS[-1:])}
    if s.ranks > 1:
        yield "with dQ of the rank's own keys alone", lambda: {"query.grad": right.dq(right.dS * (s.hop == 0))}
        yield (
            "with dK and dV of the rank's own queries alone, without the sum over the ranks",
            lambda: right.of_queries(s.hop == 0),
        )
        yield "with dK and dV without those of the last hop", lambda: right.of_queries(s.hop != s.ranks - 1)
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


def _read_wrongly(s: Setting) -> Iterator[Guess]:
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
