"""Compares what the ranks returned with the oracle: form first, then values, each element against its own budget."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.data import sum_dtype
from attention_gate.verify.case.positions import OF_QUERIES, Positions
from attention_gate.verify.case.styles import AUTOCAST, MIXED, UNDER_AUTOCAST
from attention_gate.verify.judge.error_budget import LARGEST
from attention_gate.verify.judge.location import describe
from attention_gate.verify.judge.measurements import BytesMoved
from attention_gate.verify.judge.oracle import Answer
from attention_gate.verify.judge.tensor_names import ALL_VALUES, GRADIENTS, OF_ALL_RANKS, in_words
from attention_gate.verify.rank.attended import Attended
from attention_gate.verify.world.finding import Finding, ranks


@dataclass(frozen=True)
class Verdict:
    """How one case came out: the largest share of an error budget that was used, and what was wrong, if anything.

    ``remark`` is what was measured and decides nothing: how much, and in words. Of several the largest is shown.
    ``shares`` has the largest share of the budget of each tensor that was judged, ``traffic`` the bytes of each pass.
    """

    budget_used: float
    finding: Finding | None = None
    remark: tuple[float, str] = (0.0, "")
    shares: Mapping[str, float] = field(default_factory=dict)
    traffic: tuple[BytesMoved, ...] = ()


def judge(
    case: Case,
    attended: Sequence[Attended],
    positions: Positions,
    answer: Answer,
    *,
    device: str = "cpu",
    names: Iterable[str] = ALL_VALUES,
    purity: bool = False,
    totals: Collection[str] = (),
) -> Verdict:
    """Judge the results of all shards, in their order.

    Under autocast the output may come in the inputs' dtype or in autocast's, as that of torch's own attention does.
    ``names`` are the tensors whose values are judged; with ``purity`` side effects of the call are judged too. Of what
    every rank has, ``totals`` names the gradients that each rank returns whole.
    """
    finding = _form(case, attended, positions, device) or (_remarks(case, attended) if purity else None)
    if finding:
        return Verdict(np.inf, finding)
    budget_used = 0.0
    by_tensor: dict[str, float] = {}
    for name in names:
        if name in GRADIENTS and name[0] not in case.gradients:
            continue
        if name not in GRADIENTS and not any(name in part.facts or name in part.arrays for part in attended):
            continue  # not asked for; one that was asked for and did not arrive is None
        if name in OF_ALL_RANKS:
            judged = _of_all_ranks(case, attended, answer, name, name in totals)
        elif finding := _missing(case, attended, positions, name):
            judged = Verdict(np.inf, finding)
        else:
            judged = _of_rows(case, attended, positions, answer, name)
        by_tensor[name] = judged.budget_used
        if judged.finding:
            return replace(judged, shares=by_tensor)
        budget_used = max(budget_used, judged.budget_used)
    return Verdict(budget_used, shares=by_tensor)


def _of_rows(case: Case, attended: Sequence[Attended], positions: Positions, answer: Answer, name: str) -> Verdict:
    """Judge a tensor of which each rank has its own rows, or all rows of it."""
    dtype = AUTOCAST if case.caller in UNDER_AUTOCAST else case.dtype
    parts = wholes(case, attended, positions, name)
    judged = [shares(got, answer.expected[name], answer.budget[name], dtype) for got, _ in parts]
    used = [float(share.max(initial=0.0)) for share in judged]
    budget_used = max(used)
    if budget_used <= 1.0:
        return Verdict(budget_used)
    bad = [k for k, share in enumerate(judged) if used[k] > 1.0]
    first, where = parts[bad[0]]
    finding = _wrong(case, where, name, first, answer, judged[bad[0]])
    if len(parts) > 1:
        right = len(parts) - len(bad)
        every = (
            f"; of {len(parts)} ranks that return the same rows {right or 'none'} {'is' if right < 2 else 'are'} right"
        )
        finding = replace(finding, headline=finding.headline + every)
    return Verdict(budget_used, finding)


def _of_all_ranks(case: Case, attended: Sequence[Attended], answer: Answer, name: str, is_total: bool) -> Verdict:
    """Judge the gradient of what every rank has: the ranks' parts sum up to it, or each rank has the whole of it."""
    parts = [part.arrays.get(name) for part in attended]
    if without := [rank for rank, part in zip(case.ranks, parts, strict=True) if part is None]:
        return Verdict(np.inf, Finding("fail", f"{in_words(name)} is missing on {ranks(without)}", tensor=name))
    arrays = [np.asarray(part, dtype=np.float64) for part in parts if part is not None]
    found = arrays if is_total else [np.sum(arrays, axis=0)]
    judged = [shares(got, answer.expected[name], answer.budget[name], case.dtype) for got in found]
    worst = max(range(len(found)), key=lambda k: float(judged[k].max(initial=0.0)))
    budget_used = float(judged[worst].max(initial=0.0))
    if budget_used <= 1.0:
        return Verdict(budget_used)
    where = tuple(int(i) for i in np.unravel_index(int(np.argmax(judged[worst])), judged[worst].shape))
    what = f"that of rank {case.ranks[worst]}" if is_total else "the sum of the ranks' parts"
    place = f"head {where[0]}" if name == "sink.grad" else f"{name}{list(where)} (batch, row, kv head, dim)"
    line = f"{place}: expected {answer.expected[name][where]:.9g}, {what} is {found[worst][where]:.9g}"
    wrong = f"{int((judged[worst] > 1.0).sum())} of {judged[worst].size}"
    unit = "heads" if name == "sink.grad" else "elements"
    lines = (line, *_declared_otherwise(name, arrays, answer, is_total, case.dtype))
    return Verdict(budget_used, Finding("fail", f"{in_words(name)} is wrong in {wrong} {unit}", lines, tensor=name))


def _declared_otherwise(
    name: str, arrays: Sequence[np.ndarray], answer: Answer, is_total: bool, dtype: str
) -> tuple[str, ...]:
    """What the target would have to declare for these gradients to be right."""
    others = [np.sum(arrays, axis=0)] if is_total else arrays
    if any((shares(got, answer.expected[name], answer.budget[name], dtype) > 1.0).any() for got in others):
        return ()
    field = "sink_gradient" if name == "sink.grad" else "joint_gradient"
    if is_total:
        return (f"the ranks' parts add up to it: if that is meant, declare {field}='own-rows'",)
    return (
        f"each rank returns the whole of it, which is then summed twice: if that is meant, declare {field}='total'",
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


def wholes(
    case: Case, attended: Sequence[Attended], positions: Positions, name: str
) -> list[tuple[np.ndarray, Positions]]:
    """The tensor with all its rows, and whose rows these are: one of all ranks, or one for each rank that has all."""
    if not positions.replicated or name not in OF_QUERIES:
        return [(assemble(case, attended, positions, name), positions)]
    found = [positions.only(shard) for shard in range(case.shards)]
    return [(assemble(case, attended, where, name), where) for where in found]


def assemble(case: Case, attended: Sequence[Attended], positions: Positions, name: str) -> np.ndarray:
    """The shards' rows of one tensor put to their places in the whole sequence, float64."""
    axis = 2 if name == "lse" else 1
    parts = [part.arrays.get(name) for part in attended]
    present = [part for part in parts if part is not None]
    shape = list(present[0].shape)
    shape[axis] = case.queries if name in OF_QUERIES else case.length
    whole = np.full(shape, np.nan)
    for part, owned in zip(parts, positions.of(name), strict=True):
        if part is not None and len(owned):
            whole[(slice(None),) * axis + (owned,)] = part
    return whole


def _form(case: Case, attended: Sequence[Attended], positions: Positions, device: str) -> Finding | None:
    """Kind, shape, dtype and device of everything that came back."""
    for part, own_keys, own_queries, rank in zip(attended, *positions[:2], case.ranks, strict=True):
        n, n_q = len(own_keys), len(own_queries)
        shapes = {
            "out": (case.batch, n_q, case.heads, case.value_dim),
            "lse": (case.batch, case.heads, n_q),
            "query.grad": (case.batch, n_q, case.heads, case.head_dim),
            "key.grad": (case.batch, n, case.kv_heads, case.head_dim),
            "value.grad": (case.batch, n, case.kv_heads, case.value_dim),
            "sink.grad": (case.heads,),
            "joint_key.grad": (case.batch, case.joint_rows, case.kv_heads, case.head_dim),
            "joint_value.grad": (case.batch, case.joint_rows, case.kv_heads, case.value_dim),
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
    for part in attended:
        if part.remarks:
            where = [r for p, r in zip(attended, case.ranks, strict=True) if part.remarks[0] in p.remarks]
            return Finding("fail", f"{part.remarks[0]} ({ranks(where)})")
    return None


def _missing(case: Case, attended: Sequence[Attended], positions: Positions, name: str) -> Finding | None:
    without = [
        rank
        for part, owned, rank in zip(attended, positions.of(name), case.ranks, strict=True)
        if part.arrays.get(name) is None and len(owned)
    ]
    if without or all(part.arrays.get(name) is None for part in attended):
        return Finding(
            "fail", f"{in_words(name)} is missing on {ranks(without or list(case.ranks))} (None)", tensor=name
        )
    return None


def _wrong(case: Case, positions: Positions, name: str, got: np.ndarray, answer: Answer, share: np.ndarray) -> Finding:
    wrong: np.ndarray = np.logical_not(share <= 1.0)
    axis = 2 if name == "lse" else 1
    by_row = np.moveaxis(wrong, axis, 0).reshape(wrong.shape[axis], -1)
    by_position = np.asarray(by_row.any(axis=1))
    shards = list(zip(case.ranks, positions.of(name), strict=True))
    bad = [rank for rank, owned in shards if by_position[owned].any()]
    good = [rank for rank, owned in shards if len(owned) and rank not in bad]
    extent = f"{wrong.sum()} of {wrong.size} elements, on {ranks(bad)}"
    if good:
        extent += f" ({ranks(good)} {'is' if len(good) == 1 else 'are'} right)"
    lines, element = describe(case, positions, name, got, answer, share)
    return Finding("fail", f"{in_words(name)} is wrong in {extent}", tuple(lines), tensor=name, element=element)
