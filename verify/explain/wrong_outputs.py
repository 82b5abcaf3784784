"""Wrong formulas for the output and the log-sum-exp."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from attention_gate.verify.explain.failing_case import Array, Guess, Setting, Sight, by_head, summed
from attention_gate.verify.explain.wrong_denominators import with_a_term_too_many
from attention_gate.verify.explain.wrong_layouts import placed_wrongly
from attention_gate.verify.explain.wrong_merges import merged_wrongly

#: Formulas that take in others: not worth naming where a narrower one fits as well.
SWEEPING = ("all positions taken within the shards",)


def forward_guesses(s: Setting) -> Iterator[Guess]:
    """All wrong formulas of the output, each to be computed when it is called."""
    yield from _masks(s)
    yield from _labels(s)
    yield from _missing(s)
    yield from _scales(s)
    yield from _mixing(s)
    yield from _numbers(s)
    yield from merged_wrongly(s)
    yield from with_a_term_too_many(s)
    yield from placed_wrongly(s)


def _masks(s: Setting) -> Iterator[Guess]:
    def under(masks: Array | None) -> dict[str, Array] | None:
        return None if masks is None else s.attend(summed(masks))

    def local(rank: int) -> Array:
        return np.arange(len(s.positions[rank]))

    def within(sight: Sight, labels: Callable[[int], Array] | None, skip: bool) -> dict[str, Array] | None:
        of_keys = None if labels is None else (lambda rank, source: labels(source))
        return under(s.assembled(sight, row_labels=labels, key_labels=of_keys, skip=skip))

    everywhere = np.arange(s.case.length)
    if s.case.is_causal:
        at_local = s.sight(causal=lambda rows, keys: s.local[keys] <= s.local[rows])
        strict = s.sight(causal=lambda rows, keys: keys < rows)
        off = s.sight(causal=lambda rows, keys: np.ones(np.broadcast_shapes(rows.shape, keys.shape), dtype=bool))
        for skip in (True, False):
            yield (
                "the causal mask taken at positions within the shards instead of in the sequence",
                partial(within, at_local, None, skip),
            )
        yield "the causal mask without its diagonal (j < i for j <= i)", lambda: under(strict(everywhere, everywhere))
        yield "no causal mask", lambda: under(off(everywhere, everywhere))
        dilated = np.array([rate > 1 for _, rate in s.pairs])[:, None, None, None]
        yield (
            "no causal mask in the dilated branches",
            lambda: under(np.where(dilated, off(everywhere, everywhere), s.masks)),
        )
    for words, sight, labels in (
        (
            "rows selected by their index within the shard (i_local mod r)",
            s.sight(residue=lambda x, segment: s.local[x] % segment),
            None,
        ),
        ("segments counted from the start of each shard", s.sight(segment_of=lambda x: s.local[x]), None),
        (SWEEPING[0], s.sight(), local),
        ("rows selected by i mod r instead of (i mod w) mod r", s.sight(residue=lambda x, _: x), None),
        ("offset 0 for all heads", s.sight(offsets=np.minimum(s.offsets, 0)), None),
        ("dilation rates cut to their segment lengths", s.sight(clamp=True), None),
    ):
        for skip in (True, False):
            yield (
                words,
                partial(within, sight, labels, skip),
            )
    short = [s.case.length // w * w if s.case.length >= w else s.case.length for w, _ in s.pairs]
    kept = np.stack([everywhere < stop for stop in short])[:, None, None, :]
    yield "the short last segment left out", lambda: under(s.masks & kept)


def _labels(s: Setting) -> Iterator[Guess]:
    """Blocks taken for those of other ranks, under a mask that is right in itself."""
    if s.ranks == 1:
        return
    sight = s.sight()

    def labelled(labels: Callable[[int, int], Array], skip: bool) -> dict[str, Array] | None:
        masks = s.assembled(sight, key_labels=labels, skip=skip)
        return None if masks is None else s.attend(summed(masks))

    def turned(rank: int, source: int) -> Array:
        return s.positions[(2 * rank - source) % s.ranks]

    def equal_shards(rank: int, source: int) -> Array:
        return source * (s.case.length // s.ranks) + np.arange(len(s.positions[source]))

    def rotated(rank: int, source: int) -> Array:
        order = [*range(rank, s.ranks), *range(rank)]
        lengths = np.cumsum([0] + [len(s.positions[k]) for k in order])
        place = order.index(source)
        return np.arange(lengths[place], lengths[place + 1])

    for skip in (True, False):
        yield (
            "each block masked as that of rank + hop, where it came from rank - hop",
            partial(labelled, turned, skip),
        )
        yield (
            "first position of a block computed as rank * (length // ranks), which is wrong for uneven shards",
            partial(labelled, equal_shards, skip),
        )
    yield (
        "gathered blocks in rotated order (own rank first) instead of position order",
        lambda: labelled(rotated, False),
    )


def _missing(s: Setting) -> Iterator[Guess]:
    """Blocks left out."""
    if s.ranks == 1:
        return

    def without(gone: Array) -> dict[str, Array]:
        return s.attend(summed(s.masks) * ~gone)

    yield "only the keys of the rank's own shard", lambda: without(s.hop != 0)
    for missing in range(s.ranks):
        if missing == s.ranks - 1:
            words = "the keys of the last hop of the ring missing"
        else:
            words = f"the keys of hop {missing} missing" if missing else "the rank's own keys missing"
        yield words, partial(without, s.hop == missing)
    if s.case.is_causal:
        yield (
            "one block too many skipped under the causal mask (hop >= rank for hop > rank)",
            lambda: without(s.hop >= s.owner[:, None]),
        )


def _scales(s: Setting) -> Iterator[Guess]:
    case, M = s.case, summed(s.masks)
    default = case.head_dim**-0.5
    scales = {
        "the scale 1 / sqrt(value_dim)": case.value_dim**-0.5,
        "no scale": 1.0,
        "the scale 1 / head_dim": 1.0 / case.head_dim,
        "the scale applied twice": s.scale**2,
    }
    if case.scale is not None:
        words = "the default scale for scale=0.0" if case.scale == 0 else "the scale ignored, the default in its place"
        scales[words] = default
        scales["the sign of the scale lost"] = abs(case.scale)
    for words, scale in scales.items():
        yield words, partial(s.attend, M, scale=scale)
    if case.heads > case.kv_heads > 1:
        heads = np.arange(case.heads) % case.kv_heads
        yield (
            "query head h reading kv head h mod kv_heads",
            lambda: s.attend(M, key=s.inputs.key[:, :, heads], value=s.inputs.value[:, :, heads]),
        )


def _mixing(s: Setting) -> Iterator[Guess]:
    count = len(s.pairs)
    if s.dialect == "grouped-mean":
        yield "head groups of unequal size cut as if they were equal", lambda: _unequal_groups(s)
        return
    if count == 1:
        return
    yield "each key counted once, however many branches see it", lambda: s.attend((summed(s.masks) > 0).astype(int))
    unique = [k for k, pair in enumerate(s.pairs) if pair not in s.pairs[:k]]
    yield "a branch that is given twice counted once", lambda: s.attend(summed(s.masks[unique]))
    yield "the branches after the first ignored", lambda: s.attend(summed(s.masks[:1]))
    yield "the last branch alone", lambda: s.attend(summed(s.masks[-1:]))

    def mean() -> dict[str, Array]:
        return {"out": np.mean([s.attend(mask.astype(int))["out"] for mask in s.masks], axis=0)}

    yield "the branches averaged with equal weights, not by their softmax denominators", mean


def _unequal_groups(s: Setting) -> dict[str, Array]:
    """Heads i g to (i + 1) g in branch i, with g the size of that group; heads that no branch takes are 0."""
    size, larger = divmod(s.case.heads, len(s.pairs))
    out = np.zeros_like(s.answer.expected["out"])
    for index, (_, rate) in enumerate(s.pairs):
        own = size + (index < larger)
        offsets = np.full_like(s.offsets, -1)
        offsets[index, index * own : (index + 1) * own] = index % rate
        everywhere = np.arange(s.case.length)
        part = s.attend(summed(s.sight(offsets=offsets)(everywhere, everywhere)))["out"]
        heads = slice(index * own, (index + 1) * own)
        out[:, :, heads] = part[:, :, heads]
    return {"out": out}


@np.errstate(all="ignore")
def _numbers(s: Setting) -> Iterator[Guess]:
    """Masked scores that are not minus infinity, and exponentials without a maximum."""
    Q, K, V = (by_head(x, s.case.heads) for x in (s.inputs.query, s.inputs.key, s.inputs.value))
    scores = s.scale * (Q @ K.swapaxes(-1, -2))
    blocks = {True: s.assembled(lambda r, k: np.ones((len(s.pairs), s.case.heads, len(r), len(k)), bool), skip=True)}
    blocks[False] = np.ones_like(s.masks)

    def filled(fill: float, skip: bool) -> dict[str, Array]:
        present = blocks[skip]
        assert present is not None
        terms = np.where(s.masks[:, None], scores, fill)
        terms = np.where(present[:, None], terms, -np.inf)
        top = terms.max(axis=(0, -1), keepdims=True, initial=-np.inf)
        weights = np.exp(terms - top).sum(axis=0)
        total = weights.sum(axis=-1, keepdims=True)
        lse = (top[0] + np.log(total))[..., 0]
        return {"out": ((weights / total) @ V).swapaxes(1, 2), "lse": lse}

    for fill, words in ((0.0, "0"), (-1e4, "-10000")):
        for skip in (True, False):
            yield (
                f"masked scores of {words} instead of minus infinity",
                partial(filled, fill, skip),
            )

    dtype = np.float64 if s.case.dtype == "float64" else np.float32

    def bare() -> dict[str, Array]:
        M = summed(s.masks)
        weights = np.where(M > 0, M * np.exp(scores.astype(dtype)), 0.0).astype(dtype)
        total = weights.sum(axis=-1, keepdims=True)
        return {"out": (np.where(total == 0, 0, weights / total) @ V).swapaxes(1, 2)}

    yield "exponentials of the bare scores, without a maximum subtracted", bare


def lse_guesses(s: Setting) -> Iterator[Guess]:
    """Wrong formulas of the log-sum-exp beside a right output."""
    right = s.answer.expected["lse"]
    union = (summed(s.masks) > 0).astype(int)
    yield "in base 2 instead of the natural logarithm", lambda: {"lse": right / np.log(2.0)}
    yield "with each key counted once, however many branches see it", lambda: {"lse": s.attend(union)["lse"]}
    yield "without the scale", lambda: {"lse": s.attend(summed(s.masks), scale=1.0)["lse"]}
    for index in range(len(s.pairs)):
        yield (
            f"of branch {index} alone",
            partial(lambda index: {"lse": s.attend(s.masks[index].astype(int))["lse"]}, index),
        )
    for value, words in ((0.0, "0"), (-1e30, "-1e30"), (-1e4, "-10000"), (np.inf, "+inf"), (np.nan, "NaN")):
        yield (
            f"with {words} for minus infinity in rows that see nothing",
            partial(lambda value: {"lse": np.where(np.isneginf(right), value, right)}, value),
        )
    yield "with its sign turned", lambda: {"lse": -right}
