"""Wrong ways to merge what single blocks of keys give: a ring in numpy, with the merge exchanged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from attention_gate.verify.explain.failing_case import Array, Guess, Setting

Merge = Callable[[Array, Array, Array, Array, bool], tuple[Array, Array]]


def merged_wrongly(s: Setting) -> Iterator[Guess]:
    """The output of a ring with each of the wrong merges, over blocks by hop and branch, by hop, and by branch."""
    wrong: dict[str, Merge] = {
        "the lse of remote blocks taken for a base-2 logarithm": _base_two,
        "the lse of remote blocks divided by log2(e)": _base_e,
        "the two weights of each merge exchanged": _exchanged,
        "merged outputs weighted by the lse from before the merge": _old_lse,
        "merges of two empty rows giving NaN (-inf minus -inf)": _unguarded,
        "the merge lse + log(1 + exp(block_lse - lse)), which overflows and is NaN for empty rows": _overflowing,
        "all blocks averaged with equal weights": _averaged,
        "the last block alone, in place of all blocks merged": _last,
    }
    for words, merge in wrong.items():
        for order in ("hops and branches", "hops", "branches"):
            yield words, partial(_ring, s, merge, order)


def blocks_of(s: Setting, rank: int, order: str) -> list[tuple[bool, Array]]:
    """The blocks that a rank merges, in order: whether it is remote, and its multiplicity (heads, rows, length)."""
    rows = s.positions[rank]
    found = []
    if order == "branches":
        return [(index > 0, mask[:, rows].astype(int)) for index, mask in enumerate(s.masks)]
    for hop, source in s.hops(rank):
        if s.case.is_causal and source > rank:
            continue  # all in the future: no ring computes it, and a right merge would not notice
        keys = np.isin(np.arange(s.case.length), s.positions[source])
        masks = s.masks[:, :, rows] & keys
        if order == "hops":
            found.append((hop > 0, masks.sum(axis=0)))
        else:
            found += [(hop > 0, mask.astype(int)) for mask in masks]
    return found


@np.errstate(all="ignore")
def _ring(s: Setting, merge: Merge, order: str) -> dict[str, Array]:
    out = np.zeros_like(s.answer.expected["out"])
    lse = np.full_like(s.answer.expected["lse"], -np.inf)
    for rank, rows in enumerate(s.positions):
        one, its_lse = out[:, rows], lse[:, :, rows]
        for remote, multiplicity in blocks_of(s, rank, order):
            whole = np.zeros((s.case.heads, s.case.length, s.case.length), dtype=int)
            whole[:, rows] = multiplicity
            block = s.attend(whole)
            one, its_lse = merge(one, its_lse, block["out"][:, rows], block["lse"][:, :, rows], remote)
        out[:, rows], lse[:, :, rows] = one, its_lse
    return {"out": out, "lse": lse}


def _weighted(one: Array, a: Array, other: Array, b: Array) -> Array:
    return one * a.swapaxes(1, 2)[..., None] + other * b.swapaxes(1, 2)[..., None]


def _shares(lse: Array, block_lse: Array, guard: bool = True) -> tuple[Array, Array, Array]:
    """Both sides' weights, and the lse of the two together."""
    top = np.maximum(lse, block_lse)
    top = np.where(np.isneginf(top), 0.0, top) if guard else top
    a, b = np.exp(lse - top), np.exp(block_lse - top)
    total = np.where(a + b == 0, 1.0, a + b)
    return a / total, b / total, top + np.log(a + b)


def _base_two(one: Array, lse: Array, other: Array, block_lse: Array, remote: bool) -> tuple[Array, Array]:
    a, b, both = _shares(lse, block_lse * (np.log2(np.e) if remote else 1.0))
    return _weighted(one, a, other, b), both


def _base_e(one: Array, lse: Array, other: Array, block_lse: Array, remote: bool) -> tuple[Array, Array]:
    a, b, both = _shares(lse, block_lse / (np.log2(np.e) if remote else 1.0))
    return _weighted(one, a, other, b), both


def _exchanged(one: Array, lse: Array, other: Array, block_lse: Array, remote: bool) -> tuple[Array, Array]:
    a, b, both = _shares(lse, block_lse)
    return _weighted(one, b, other, a), both


def _old_lse(one: Array, lse: Array, other: Array, block_lse: Array, remote: bool) -> tuple[Array, Array]:
    a, b, _ = _shares(lse, block_lse)
    return _weighted(one, a, other, b), np.where(np.isneginf(lse), block_lse, lse)


def _unguarded(one: Array, lse: Array, other: Array, block_lse: Array, remote: bool) -> tuple[Array, Array]:
    a, b, both = _shares(lse, block_lse, guard=False)
    return _weighted(one, a, other, b), both


def _overflowing(one: Array, lse: Array, other: Array, block_lse: Array, remote: bool) -> tuple[Array, Array]:
    a, b, _ = _shares(lse, block_lse)
    return _weighted(one, a, other, b), lse + np.log(1.0 + np.exp(block_lse - lse))


def _last(one: Array, lse: Array, other: Array, block_lse: Array, remote: bool) -> tuple[Array, Array]:
    return other, block_lse


def _averaged(one: Array, lse: Array, other: Array, block_lse: Array, remote: bool) -> tuple[Array, Array]:
    half = np.full_like(lse, 0.5)
    first = np.isneginf(lse).swapaxes(1, 2)[..., None]
    return np.where(first, other, _weighted(one, half, other, half)), np.logaddexp(lse, block_lse)
