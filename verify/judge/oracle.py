"""The right answer to a case, and how far rounding alone may carry an implementation from it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import numpy as np

from attention_gate import reference
from attention_gate.verify.case.branch_share import branch_share
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.data import joint_rows, per_head, rounded, rows
from attention_gate.verify.case.masks import branch_masks, joint_and_own, visibility
from attention_gate.verify.judge.error_budget import ACCUMULATOR, Budget, error_budget


@dataclass(frozen=True)
class Inputs:
    """All rows of the tensors, key and value with those that every rank has: float64, rounded to the dtype.

    query and upstream (batch, queries, heads, dim), key and value (batch, keys, kv_heads, dim).
    """

    query: np.ndarray
    key: np.ndarray
    value: np.ndarray
    upstream: np.ndarray


@dataclass(frozen=True)
class Answer:
    """What a correct implementation returns, by name: "out", "lse", "query.grad", "key.grad", "value.grad".

    Shapes are those of the whole sequence: lse (batch, heads, length), the others (batch, length, heads, dim). Also
    "sink.grad", "joint_key.grad" and "joint_value.grad" of what every rank has, where there is any.
    ``budget`` holds for each, element by element, the error that rounding may cause.
    """

    expected: dict[str, np.ndarray]
    budget: Budget
    dialect: str = "longnet"

    def with_lse_of(self, other: Answer) -> Answer:
        """The same with the lse of another answer."""
        return self._with_lse(other.expected["lse"], other.budget["lse"])

    def with_lse_by_key_position(self, case: Case) -> Answer:
        """The same with scores made larger by the slope times the key's position, not smaller by the distance.

        Positions are counted from the start of the document. For keys up to the query that moves all scores of a row
        alike: the lse is larger by the slope times the query's position.
        """
        queries, _ = reference.rows(case.queries, case.keys, case.document_lengths, case.query_lengths)
        starts = np.cumsum([0, *(case.document_lengths or ())])[np.maximum(queries.document, 0)]
        shift = per_head(case, "slopes")[:, None] * (queries.position - starts)
        slack = 8 * ACCUMULATOR[case.dtype] * np.abs(shift)
        return self._with_lse(self.expected["lse"] + shift, self.budget["lse"] + slack)

    def _with_lse(self, lse: np.ndarray, budget: np.ndarray) -> Answer:
        return Answer(self.expected | {"lse": lse}, self.budget | {"lse": budget}, self.dialect)


def inputs_of(case: Case) -> Inputs:
    """All rows of the case's tensors."""
    queries, keys = np.arange(case.queries), np.arange(case.length)
    joint, own = joint_and_own(case)

    def all_keys(name: Literal["key", "value"]) -> np.ndarray:
        parts = [rows(case, name, keys), joint_rows(case, name)]
        return np.concatenate(parts if own.start < joint.start else parts[::-1], axis=1)

    query, upstream = rows(case, "query", queries), rows(case, "upstream", queries)
    return Inputs(query, all_keys("key"), all_keys("value"), upstream)


def answer(case: Case, dialect: str = "longnet", autocast: str | None = None) -> Answer:
    """The oracle's answer in a dialect; it is the same for every world size, all strides and all ways of calling.

    ``autocast`` is the dtype of autocast, under which every product may be taken in it, of inputs that are cast to it.
    """
    plain = case.replace(
        world_size=1,
        group=None,
        pass_length=True,
        interleave=None,
        buffers="contiguous",
        requires_grad="qkv",
        caller="plain",
    )
    return _answer(plain, dialect, autocast)


def keep(answers: int) -> None:
    """Keep that many answers from now on: who judges several targets by the same examples asks for each one again."""
    global _answer
    _answer = lru_cache(maxsize=answers)(_answer.__wrapped__)


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
    expected: dict[str, np.ndarray] = {"out": out, "lse": lse}
    expected |= {"query.grad": grads.query, "key.grad": grads.key, "value.grad": grads.value}
    if isinstance(grads, reference.GradientsWithSink):
        expected["sink.grad"] = grads.sink
    M = branch_masks(case, dialect).sum(axis=0, dtype=np.int64)
    share = branch_share(case, dialect)
    rounding: dict[str, Any] = {
        "scale": case.scale,
        "dtype": autocast or case.dtype,
        "narrow_products": autocast is not None,
        "terms": score_terms(case),
        "positions": _positions(case),
        "in_parts": joint_and_own(case)[0],
    }
    budget = error_budget(*tensors, inputs.upstream, M, expected=expected, **rounding)
    budget = {name: array * (share if name != "lse" else 1.0) for name, array in budget.items()}
    return Answer(_apart(case, expected), _apart(case, budget), dialect)


def _positions(case: Case) -> tuple[np.ndarray, np.ndarray]:
    """Where queries and keys stand."""
    queries, keys = reference.rows(case.queries, case.keys, case.document_lengths, case.query_lengths)
    return queries.position, keys.position


def _apart(case: Case, arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What belongs to all keys, as that of the sequence and that of the rows that every rank has."""
    if case.joint is None:
        return arrays
    joint, own = joint_and_own(case)
    found = dict(arrays)
    for name in ("key.grad", "value.grad"):
        found[name], found[f"joint_{name}"] = arrays[name][:, own], arrays[name][:, joint]
    return found
