"""What a call comes to if queries stand elsewhere, or if parts of the keys are merged otherwise, than is meant."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.masks import joint_and_own, visibility
from attention_gate.verify.explain.failing_case import Array, Meaning, Setting
from attention_gate.verify.judge.oracle import score_terms


def length_meanings(s: Setting) -> Iterator[Meaning]:
    """The other meanings of a dense case with other lengths, joint rows, or keys dealt out in blocks."""
    case = s.case
    if not case.is_dense:
        return
    queries, keys = reference.rows(case.queries, case.keys, case.document_lengths, case.query_lengths)
    for words, places in _places(case, queries.position):
        if (places >= 0).all() or case.mask is None:  # masks are asked for at real positions only
            yield f"with {words}", partial(_attended, s, queries._replace(position=places), keys)
    if case.interleave not in (None, 1):
        labels = keys.position.copy()
        first = joint_and_own(case)[1].start
        for rank, owned in enumerate(s.positions):
            labels[first + owned] = first + np.arange(len(owned)) * s.ranks + rank
        words = "with keys at the positions of blocks of one row, whatever the blocks are"
        yield words, partial(_attended, s, queries, keys._replace(position=labels))
    if case.joint is not None:
        yield from _joint(s, queries, keys)
    yield from _merges(s, queries, keys)


def _places(case: Case, right: Array) -> Iterator[tuple[str, Array]]:
    """Other positions of the queries."""
    of_keys = case.document_lengths or (case.keys,)
    of_queries = case.query_lengths or case.document_lengths or (case.queries,)
    starts = np.cumsum([0, *of_keys[:-1]])
    documents = list(zip(starts, of_keys, of_queries, strict=True))

    def by(place: Callable[[int, int, int], Array]) -> Array:
        found = right.copy()
        parts = [place(int(first), k, q) for first, k, q in documents]
        found[: sum(of_queries)] = np.concatenate([np.zeros(0, dtype=int), *parts])
        return found

    yield (
        "the first query at the first key of its document, not the last at the last",
        by(lambda f, k, q: f + np.arange(q)),
    )
    yield "each query one position later", right + 1
    yield "each query one position earlier", right - 1
    yield "each query at the last position of its document", by(lambda f, k, q: np.full(q, f + k - 1))
    if len(documents) > 1:
        yield "the first document's number of keys for all", by(lambda f, k, q: f + of_keys[0] - q + np.arange(q))
        yield (
            "positions counted from the end of the sequence, not of the document",
            case.keys - case.queries + np.arange(case.queries),
        )


def _joint(s: Setting, queries: reference.Rows, keys: reference.Rows) -> Iterator[Meaning]:
    """The rows that every rank has left out, counted more often, or put elsewhere."""
    case = s.case
    joint, own = joint_and_own(case)
    M = _visible(case, queries, keys)

    def times(count: int) -> Array:
        return np.where(np.isin(np.arange(case.keys), np.arange(case.keys)[joint]), count, 1) * M

    yield "without the rows that every rank has", partial(_under, s, times(0), queries, keys)
    if s.ranks > 1:
        words = "with the rows that every rank has counted once for each rank"
        yield words, partial(_under, s, times(s.ranks), queries, keys)
        at_home = np.zeros_like(M)
        for rank, mine in enumerate(s.queries):
            at_home[:, mine[:, None], np.r_[np.arange(case.keys)[joint], own.start + s.positions[rank]]] = 1
        words = "with the rank's own keys alone beside the rows that every rank has"
        yield words, partial(_under, s, M * at_home, queries, keys)
    positions = keys.position.copy()
    before = case.joint is not None and case.joint[0] == "front"
    positions[joint] = np.arange(case.joint_rows) + (case.length if before else 0)
    positions[own] = np.arange(case.length) + (0 if before else case.joint_rows)
    words = f"with the rows that every rank has {'after' if before else 'before'} all others"
    yield words, partial(_attended, s, queries, keys._replace(position=positions))


@np.errstate(all="ignore")
def _merges(s: Setting, queries: reference.Rows, keys: reference.Rows) -> Iterator[Meaning]:
    """The ranks' parts merged by other weights, or rows that no part sees not taken for what they are."""
    empty = np.isneginf(s.answer.expected["lse"])
    by_row = empty.swapaxes(1, 2)[..., None]
    yield (
        "with NaN where no part has a key that is seen",
        lambda: {
            "out": np.where(by_row, np.nan, s.answer.expected["out"]),
            "lse": np.where(empty, np.nan, s.answer.expected["lse"]),
        },
    )
    if s.ranks == 1:
        return
    first, M = joint_and_own(s.case)[1].start, _visible(s.case, queries, keys)
    everywhere = np.arange(s.case.keys)

    def parts() -> list[dict[str, Array]]:
        return [_under(s, M * np.isin(everywhere, first + owned), queries, keys) for owned in s.positions]

    def weighted(weigh: Callable[[Array], Array]) -> dict[str, Array]:
        found = parts()
        lses = np.stack([part["lse"] for part in found])
        weights = weigh(lses)
        share = (weights / weights.sum(axis=0)).swapaxes(2, 3)[..., None]
        return {"out": np.nansum([w * part["out"] for w, part in zip(share, found, strict=True)], axis=0)}

    def natural(lses: Array, factor: float) -> Array:
        scaled = np.where(np.isneginf(lses), lses, factor * lses)
        top = scaled.max(axis=0)
        return np.asarray(np.exp(scaled - np.where(np.isneginf(top), 0.0, top)))

    for words, weigh in (
        ("an lse in base 2 taken for the natural one", lambda lses: natural(lses, 1 / np.log(2.0))),
        ("the natural lse taken for one in base 2", lambda lses: natural(lses, np.log(2.0))),
        ("equal weights", np.ones_like),
    ):
        yield f"with the ranks' parts merged by {words}", partial(weighted, weigh)


def _visible(case: Case, queries: reference.Rows, keys: reference.Rows) -> Array:
    """Which keys each head's queries see where both stand at these positions: 0 or 1, (heads, queries, keys)."""
    x, j = queries.position[:, None], keys.position
    seen = queries.document[:, None] == keys.document
    if case.is_causal:
        seen = seen & (j <= x)
    if case.window is not None:
        seen = seen & reference.in_window(queries, keys, case.window)
    heads = np.arange(case.heads)[:, None, None]
    mask = visibility(case)["mask"]
    return np.asarray(seen & (heads >= 0) if mask is None else seen & mask(heads, x, j)).astype(np.int64)


def _attended(s: Setting, queries: reference.Rows, keys: reference.Rows) -> dict[str, Array]:
    return _under(s, _visible(s.case, queries, keys), queries, keys)


def _under(s: Setting, M: Array, queries: reference.Rows, keys: reference.Rows) -> dict[str, Array]:
    """All results under a multiplicity, with these positions."""
    inputs, terms = s.inputs, score_terms(s.case) | {"positions": (queries.position, keys.position)}
    tensors = (inputs.query, inputs.key, inputs.value, M)
    out, lse = reference.attention(*tensors, s.scale, **terms)
    grads = reference.attention_gradients(*tensors, inputs.upstream, s.scale, **terms)
    own = joint_and_own(s.case)[1]
    of_keys = {"key.grad": grads.key[:, own], "value.grad": grads.value[:, own]}
    return {"out": out, "lse": lse, "query.grad": grads.query, **of_keys}
