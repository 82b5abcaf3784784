"""What a call comes to if an optional term is taken otherwise than it is meant: by other heads or rows, in one pass."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from functools import partial
from typing import Any

import numpy as np

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.lengths import with_documents
from attention_gate.verify.case.masks import visibility
from attention_gate.verify.explain.failing_case import Array, Meaning, Setting, by_head
from attention_gate.verify.judge.oracle import score_terms

#: A meaning in words, and the case that has it; ValueError where no case has that beside the rest.
OtherCase = tuple[str, Callable[[], Case]]

#: How each term reads in a sentence.
WORDS = {
    "window": "the window",
    "documents": "the documents' boundaries",
    "mask": "the mask",
    "softcap": "the soft cap",
    "slopes": "the slopes",
    "sink": "the sink",
}


def without(case: Case, terms: Collection[str]) -> Case:
    """The case with these of its terms off."""
    if "documents" in terms:
        case = with_documents(case, None)
    return case.replace(**{term: False if term == "slopes" else None for term in terms if term != "documents"})


def other_cases(case: Case, ends: tuple[int, ...]) -> Iterator[OtherCase]:
    """The case with other documents or another window; ``ends`` are the positions at which contiguous shards end."""
    if lengths := case.document_lengths:
        left_over = case.length - sum(lengths)
        for words, documents in (
            ("with the rows after the last document taken for rows of it", (*lengths[:-1], lengths[-1] + left_over)),
            ("with each document ending a row late", (lengths[0] + 1, *lengths[1:-1], lengths[-1] - 1)),
            ("with the last document dropped", lengths[:-1]),
            ("with documents that begin anew on each shard", _cut(lengths, ends)),
        ):
            if min(documents, default=0) >= 0 and sum(documents) <= case.length and len(documents) >= len(lengths) - 1:
                yield words, partial(with_documents, case, documents)
    if case.window is not None:
        left, right = case.window
        yield "with no right bound of the window", partial(case.replace, window=(left, None))
        yield "with no left bound of the window", partial(case.replace, window=(None, right))
        if case.is_causal:
            yield "with a window that switches the causal mask off", partial(case.replace, is_causal=False)


def _cut(lengths: tuple[int, ...], ends: tuple[int, ...]) -> tuple[int, ...]:
    """The documents, cut where shards end too."""
    cuts = sorted({0, *np.cumsum(lengths).tolist(), *(end for end in ends if end < sum(lengths))})
    return tuple(np.diff(cuts).tolist())


def meanings(s: Setting) -> Iterator[Meaning]:
    """The other meanings of masks, slopes, sinks and the backward pass, in the dialect that has them."""
    if s.dialect != "longnet" or s.case.query_length is not None or s.case.joint is not None:
        return  # formulas are those of as many queries as keys
    case, terms = s.case, score_terms(s.case)
    if (mask := visibility(case)["mask"]) is not None:
        local = s.local

        def of_first_rows(head: Array, query: Array, key: Array) -> Array:
            return np.asarray(mask(head, local[query], key))

        yield "with the mask taken at the rows' places within their shards", _attended(s, {"mask": of_first_rows}, {})
        first_head = {"mask": lambda head, query, key: mask(0 * head, query, key)}
        yield "with the mask of the first head for all heads", _attended(s, first_head, {})
        exchanged = {"mask": lambda head, query, key: mask(head, key, query)}
        yield "with the mask asked for query and key exchanged", _attended(s, exchanged, {})
    of_rank = _numbers_on_ranks(case)
    if (slopes := terms["slopes"]) is not None:
        yield "with slopes of the other sign", _attended(s, {}, {"slopes": -slopes})
        yield "with slopes by the number of a head on its rank", _attended(s, {}, {"slopes": slopes[of_rank]})
        yield "with distances of rows within their shards", _attended(s, {}, {"positions": (s.local, s.local)})
    if (sink := terms["sink"]) is not None:
        yield "with sinks by the number of a head on its rank", _attended(s, {}, {"sink": sink[of_rank]})
        yield "with the sink counted once for each rank", _attended(s, {}, {"sink": sink + np.log(s.ranks)})
        yield "with the sink counted once for each branch", _attended(s, {}, {"sink": sink + np.log(len(s.pairs))})
    yield from _of_one_pass(s)


def _numbers_on_ranks(case: Case) -> Array:
    """The number that each head has on its rank, where kv heads are dealt out to the ranks with their query heads."""
    group = case.heads // case.kv_heads
    parts = np.array_split(np.arange(case.kv_heads), case.shards)
    return np.concatenate([np.arange(len(part) * group) for part in parts])


def _multiplicity(s: Setting, changes: dict[str, Any]) -> Array:
    case = s.case
    seen = visibility(case) | changes
    return np.asarray(reference.multiplicity(case.length, case.heads, s.pairs, case.is_causal, s.dialect, **seen))


def _attended(s: Setting, seen: dict[str, Any], scored: dict[str, Any]) -> Callable[[], dict[str, Array]]:
    """All results with some of what is seen, and of what scores are made of, changed."""

    def results() -> dict[str, Array]:
        M, terms, inputs = _multiplicity(s, seen), score_terms(s.case) | scored, s.inputs
        tensors = (inputs.query, inputs.key, inputs.value, M)
        out, lse = reference.attention(*tensors, s.scale, **terms)
        grads = reference.attention_gradients(*tensors, inputs.upstream, s.scale, **terms)
        return {"out": out, "lse": lse, **_named(grads[0], grads[1], grads[2])}

    return results


def _of_one_pass(s: Setting) -> Iterator[Meaning]:
    """Gradients whose backward pass lacks a term, and takes lse and output of a forward pass that has it."""
    for term, words in WORDS.items():
        if term in s.case.terms and term != "sink":  # that counts through the lse alone
            other = without(s.case, [term])
            yield f"with {words} in the forward pass only", partial(_backward, s, other, True)
    if s.case.softcap is not None:
        yield "without the derivative of the soft cap", partial(_backward, s, s.case, False)


def _backward(s: Setting, case: Case, derivative: bool) -> dict[str, Array]:
    """The gradients by the formulas of a backward pass that computes P = M exp(s - lse) from the lse it was given."""
    inputs, heads, scale = s.inputs, case.heads, s.scale
    everything = np.ones((heads, case.length, case.length), dtype=np.int64)
    terms = score_terms(case) | {"sink": None}
    P, of_all = reference.weights(inputs.query, inputs.key, everything, scale, **terms)
    M = reference.multiplicity(case.length, heads, s.pairs, case.is_causal, s.dialect, **visibility(case))
    lse, out = s.answer.expected["lse"], s.answer.expected["out"]
    P = np.where((M > 0) & np.isfinite(lse)[..., None], M * P * np.exp(of_all - lse)[..., None], 0.0)
    Q, K, V, dO, o = (by_head(x, heads) for x in (inputs.query, inputs.key, inputs.value, inputs.upstream, out))
    dS = P * (dO @ V.mT - (dO * o).sum(axis=-1, keepdims=True))
    if derivative and case.softcap is not None:
        dS = dS * (1.0 - np.tanh(scale * (Q @ K.mT) / case.softcap) ** 2)
    dQ, dK, dV = scale * dS @ K, scale * dS.mT @ Q, P.mT @ dO
    return _named(_by_row(dQ, heads), _by_row(dK, case.kv_heads), _by_row(dV, case.kv_heads))


def _by_row(array: Array, heads: int) -> Array:
    """(batch, heads, length, dim) to (batch, length, kv_heads, dim), summed over the query heads of a kv head."""
    batch, repeated, length, dim = array.shape
    return array.reshape(batch, heads, repeated // heads, length, dim).sum(axis=2).swapaxes(1, 2)


def _named(query: Array, key: Array, value: Array) -> dict[str, Array]:
    return {"query.grad": query, "key.grad": key, "value.grad": value}
