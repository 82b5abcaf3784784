"""The right answer to a case, and how far rounding alone may carry an implementation from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.data import per_head, rounded, rows
from attention_gate.verify.case.masks import visibility
from attention_gate.verify.judge.error_budget import Budget, error_budget


@dataclass(frozen=True)
class Inputs:
    """The values that the ranks' shards are rows of: float64 (batch, length, heads, dim), rounded to the dtype."""

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    upstream: np.ndarray


@dataclass(frozen=True)
class Answer:
    """What a correct implementation returns, by name: "out", "lse", "query.grad", "key.grad", "value.grad".

    Shapes are those of the whole sequence: lse (batch, heads, length), the others (batch, length, heads, dim).
    ``budget`` holds for each, element by element, the error that rounding may cause.
    """

    expected: dict[str, np.ndarray]
    budget: Budget
    dialect: str = "longnet"


def inputs_of(case: Case) -> Inputs:
    """All rows of the case's tensors."""
    positions = np.arange(case.length)
    return Inputs(*(rows(case, name, positions) for name in ("query", "key", "value", "upstream")))


def answer(case: Case, dialect: str = "longnet", autocast: str | None = None) -> Answer:
    """The oracle's answer in a dialect; it is the same for every world size, all strides and all ways of calling.

    ``autocast`` is the dtype of autocast, under which every product may be taken in it, of inputs that are cast to it.
    """
    plain = case.replace(
        world_size=1, group=None, pass_length=True, buffers="contiguous", requires_grad="qkv", caller="plain"
    )
    return _answer(plain, dialect, autocast)


def score_terms(case: Case) -> dict[str, Any]:
    """The case's cap, slopes and sink, as reference.attention takes them."""
    return {
        "softcap": case.softcap,
        "slopes": per_head(case, "slopes") if case.slopes else None,
        "sink": None if case.sink is None else per_head(case, "sink"),
    }


@lru_cache(maxsize=16)
def _answer(case: Case, dialect: str, autocast: str | None = None) -> Answer:
    inputs = inputs_of(case)
    if autocast is not None:
        inputs = Inputs(*(rounded(array, autocast) for array in vars(inputs).values()))
    tensors = (inputs.query, inputs.key, inputs.value)
    options: dict[str, Any] = {
        "segment_lengths": case.segment_lengths,
        "dilation_rates": case.dilation_rates,
        "is_causal": case.is_causal,
        "scale": case.scale,
        "dialect": dialect,
        **visibility(case),
        **score_terms(case),
    }
    out, lse = reference.dilated_attention(*tensors, **options)
    grads = reference.dilated_attention_gradients(*tensors, inputs.upstream, **options)
    expected = {"out": out, "lse": lse}
    expected |= {"query.grad": grads.query, "key.grad": grads.key, "value.grad": grads.value}
    if isinstance(grads, reference.GradientsWithSink):
        expected["sink.grad"] = grads.sink
    branches = reference.branches(case.segment_lengths, case.dilation_rates)
    M = reference.multiplicity(case.length, case.heads, branches, case.is_causal, dialect, **visibility(case))
    share = 1.0 / len(branches) if dialect == "grouped-mean" else 1.0
    rounding: dict[str, Any] = {
        "scale": case.scale,
        "dtype": autocast or case.dtype,
        "narrow_products": autocast is not None,
        "terms": score_terms(case),
    }
    budget = error_budget(*tensors, inputs.upstream, M, expected=expected, **rounding)
    return Answer(
        expected, {name: array * (share if name != "lse" else 1.0) for name, array in budget.items()}, dialect
    )
