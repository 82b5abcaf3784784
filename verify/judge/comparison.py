"""Compares what the ranks returned with the oracle: form first, then values, each element against its own budget."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.data import sum_dtype
from attention_gate.verify.case.styles import AUTOCAST, MIXED, UNDER_AUTOCAST
from attention_gate.verify.judge.error_budget import LARGEST
from attention_gate.verify.judge.location import describe
from attention_gate.verify.judge.oracle import Answer
from attention_gate.verify.judge.tensor_names import ALL_VALUES, GRADIENTS, in_words
from attention_gate.verify.rank.attended import Attended
from attention_gate.verify.world.finding import Finding, ranks


@dataclass(frozen=True)
class Verdict:
    """How one case came out: the largest share of an error budget that was used, and what was wrong, if anything.

    ``remark`` is what was measured and decides nothing: how much, and in words. Of several the largest is shown.
    """

    budget_used: float
    finding: Finding | None = None
    remark: tuple[float, str] = (0.0, "")


def judge(
    case: Case,
    attended: Sequence[Attended],
    positions: Sequence[np.ndarray],
    answer: Answer,
    *,
    device: str = "cpu",
    names: Iterable[str] = ALL_VALUES,
    purity: bool = False,
    sink_gradient: str = "own-rows",
) -> Verdict:
    """Judge the results of all shards, in their order.

    Under autocast the output may come in the inputs' dtype or in autocast's, as that of torch's own attention does.
    ``names`` are the tensors whose values are judged; with ``purity`` side effects of the call are judged too.
    """
    finding = _form(case, attended, positions, device) or (_remarks(case, attended) if purity else None)
    if finding:
        return Verdict(np.inf, finding)
    budget_used = 0.0
    for name in names:
        if name in GRADIENTS and name[0] not in case.gradients:
            continue
        if name == "sink.grad":
            if any(name in part.facts for part in attended):
                judged = _of_sink(case, attended, answer, sink_gradient)
                if judged.finding:
                    return judged
                budget_used = max(budget_used, judged.budget_used)
            continue
        if name in ("out", "lse") and not any(name in part.arrays for part in attended):
            continue
        if finding := _missing(case, attended, positions, name):
            return Verdict(np.inf, finding)
        got = assemble(case, attended, positions, name)
        share = shares(
            got, answer.expected[name], answer.budget[name], AUTOCAST if case.caller in UNDER_AUTOCAST else case.dtype
        )
        budget_used = max(budget_used, float(share.max(initial=0.0)))
        if budget_used > 1.0:
            return Verdict(budget_used, _wrong(case, positions, name, got, answer, share))
    return Verdict(budget_used)


def _of_sink(case: Case, attended: Sequence[Attended], answer: Answer, sink_gradient: str) -> Verdict:
    """Judge the gradient of the sink: the ranks' parts sum up to it, or each rank has the whole of it."""
    name = "sink.grad"
    parts = [part.arrays.get(name) for part in attended]
    if without := [rank for rank, part in zip(case.ranks, parts, strict=True) if part is None]:
        return Verdict(np.inf, Finding("fail", f"{in_words(name)} is missing on {ranks(without)}", tensor=name))
    arrays = [np.asarray(part, dtype=np.float64) for part in parts if part is not None]
    found = arrays if sink_gradient == "total" else [np.sum(arrays, axis=0)]
    judged = [shares(got, answer.expected[name], answer.budget[name], case.dtype) for got in found]
    worst = max(range(len(found)), key=lambda k: float(judged[k].max(initial=0.0)))
    budget_used = float(judged[worst].max(initial=0.0))
    if budget_used <= 1.0:
        return Verdict(budget_used)
    head = int(np.argmax(judged[worst]))
    what = "the sum of the ranks' parts" if sink_gradient != "total" else f"that of rank {case.ranks[worst]}"
    line = f"head {head}: expected {answer.expected[name][head]:.9g}, {what} is {found[worst][head]:.9g}"
    wrong = int((judged[worst] > 1.0).sum())
    return Verdict(
        budget_used,
        Finding("fail", f"{in_words(name)} is wrong in {wrong} of {case.heads} heads", (line,), tensor=name),
    )


@np.errstate(all="ignore")
def shares(got: np.ndarray, expected: np.ndarray, budget: np.ndarray, dtype: str) -> np.ndarray:
    """The share of each element's budget that its error uses; infinite where a number and NaN or infinity differ."""
    error = np.abs(got - expected)
    share = np.where(error == 0.0, 0.0, error / budget)
    share = np.where(np.isnan(share), np.inf, share)  # no comparison would notice a NaN
    # Not finite: right only if it is the very same, or if the dtype cannot hold the expected number.
    same = (got == expected) | (np.isnan(got) & np.isnan(expected))
    overflow = np.isinf(got) & (np.sign(got) == np.sign(expected)) & (np.abs(expected) + budget >= LARGEST[dtype])
    unusual = ~np.isfinite(got) | ~np.isfinite(expected)
    return np.where(unusual, np.where(same | overflow, 0.0, np.inf), share)


def assemble(case: Case, attended: Sequence[Attended], positions: Sequence[np.ndarray], name: str) -> np.ndarray:
    """The shards' rows of one tensor put to their places in the whole sequence, float64."""
    axis = 2 if name == "lse" else 1
    parts = [part.arrays.get(name) for part in attended]
    present = [part for part in parts if part is not None]
    shape = list(present[0].shape)
    shape[axis] = case.length
    whole = np.full(shape, np.nan)
    for part, owned in zip(parts, positions, strict=True):
        if part is not None:
            whole[(slice(None),) * axis + (owned,)] = part
    return whole


def _form(case: Case, attended: Sequence[Attended], positions: Sequence[np.ndarray], device: str) -> Finding | None:
    """Kind, shape, dtype and device of everything that came back."""
    for part, owned, rank in zip(attended, positions, case.ranks, strict=True):
        n = len(owned)
        shapes = {
            "out": (case.batch, n, case.heads, case.value_dim),
            "lse": (case.batch, case.heads, n),
            "query.grad": (case.batch, n, case.heads, case.head_dim),
            "key.grad": (case.batch, n, case.kv_heads, case.head_dim),
            "value.grad": (case.batch, n, case.kv_heads, case.value_dim),
            "sink.grad": (case.heads,),
        }
        for name, fact in part.facts.items():
            dtypes: tuple[str, ...] = (case.dtype,)
            if name == "out" and case.caller in UNDER_AUTOCAST:
                dtypes = (case.dtype, AUTOCAST)
            if name == "lse" and case.dtype != "float64":
                dtypes = _LSE_DTYPES
            if name == "sink.grad":
                dtypes = (sum_dtype(case),)
            if name == "value.grad" and case.caller == MIXED:
                dtypes = (AUTOCAST,)
            allowed = [f"tensor {shapes[name]} {dtype} {device}" for dtype in dtypes]
            if fact not in allowed:
                wanted = allowed[0] if name != "lse" else f"{allowed[0]} (or wider)"
                headline = f"{in_words(name)} on rank {rank} is {fact}, expected {wanted}"
                return Finding("fail", headline, tensor=name)
    return None


_LSE_DTYPES = ("float32", "float64")


def _remarks(case: Case, attended: Sequence[Attended]) -> Finding | None:
    for part, rank in zip(attended, case.ranks, strict=True):
        if part.remarks:
            where = [r for p, r in zip(attended, case.ranks, strict=True) if part.remarks[0] in p.remarks]
            return Finding("fail", f"{part.remarks[0]} ({ranks(where or [rank])})")
    return None


def _missing(case: Case, attended: Sequence[Attended], positions: Sequence[np.ndarray], name: str) -> Finding | None:
    without = [
        rank
        for part, owned, rank in zip(attended, positions, case.ranks, strict=True)
        if part.arrays.get(name) is None and len(owned)
    ]
    if without or all(part.arrays.get(name) is None for part in attended):
        return Finding(
            "fail", f"{in_words(name)} is missing on {ranks(without or list(case.ranks))} (None)", tensor=name
        )
    return None


def _wrong(
    case: Case, positions: Sequence[np.ndarray], name: str, got: np.ndarray, answer: Answer, share: np.ndarray
) -> Finding:
    wrong: np.ndarray = np.logical_not(share <= 1.0)
    by_row = np.moveaxis(wrong, 2 if name == "lse" else 1, 0).reshape(case.length, -1)
    by_position = np.asarray(by_row.any(axis=1))
    bad = [rank for rank, owned in zip(case.ranks, positions, strict=True) if by_position[owned].any()]
    good = [rank for rank, owned in zip(case.ranks, positions, strict=True) if len(owned) and rank not in bad]
    extent = f"{wrong.sum()} of {wrong.size} elements, on {ranks(bad)}"
    if good:
        extent += f" ({ranks(good)} {'is' if len(good) == 1 else 'are'} right)"
    return Finding(
        "fail",
        f"{in_words(name)} is wrong in {extent}",
        tuple(describe(case, positions, name, got, answer, share)),
        tensor=name,
    )
