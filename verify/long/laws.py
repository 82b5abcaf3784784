"""Laws that every attention keeps on every row, at any length, without an oracle; each docstring derives one.

Two sides of a law may differ by `tolerance` times the largest element: 8 (u + a sqrt(n)), with u the unit roundoff of
the inputs' dtype, a that of the accumulator and n the keys that a query sees. Each side is rounded a few times to u,
and sums of n terms are off by a sqrt(n) for independent roundings (Higham and Mary, SIAM J. Sci. Comput. 41, 2019).
Sums over all rows may differ by it times the root of the sum of the terms' squares, and by a n times their own size, as
accumulators that round toward zero, those of tensor cores among them, lose that much to one side. docs/long.md has the
largest shares that correct implementations used, and the mistakes that each law catches and does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention_gate import reference
from attention_gate.verify.case.branch_share import branch_share
from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.error_budget import ACCUMULATOR, UNIT_ROUNDOFF
from attention_gate.verify.long.long_cases import keys_of_a_query

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Law:
    """A law: the procedure of the ranks that it needs, its options or why it does not apply, and its verdict.

    ``options(case, dialect)`` is what the procedure takes, or a reason in words. ``judge(case, parts)`` returns, for
    each thing compared, the share of the tolerance that was used, and the first wrong position if that is known.
    """

    name: str
    procedure: str
    options: Callable[[Case, str], dict[str, Any] | str]
    judge: Callable[[Case, Sequence[Numbers]], list[tuple[str, float, int | None]]]
    states: str


def tolerance(case: Case) -> float:
    """The largest relative difference that rounding explains."""
    return 8.0 * (UNIT_ROUNDOFF[case.dtype] + ACCUMULATOR[case.dtype] * math.sqrt(keys_of_a_query(case)))


def constant_value(case: Case, dialect: str) -> dict[str, Any] | str:
    """A constant value comes out as it went in, in each row that sees something; the others are 0.

    out_i = sum_j P_ij c = c sum_j P_ij = c, as a row's weights have the sum 1. (The mean over branches of
    `grouped-mean` leaves c / branches; a sink takes a part of the sum away, so the law is not asked there.)
    """
    if case.sink is not None:
        return "a sink takes a part of each row's weights"
    return {"dialect": dialect, "share": branch_share(case, dialect), "tolerance": tolerance(case)}


def query_key_products(case: Case, dialect: str) -> dict[str, Any] | str:
    """<dQ, Q> = <dK, K>, for each batch row and each kv head with its query heads.

    Scores depend on Q and K by q_i . k_j alone: if all q_i of the group grow by the factor 1 + t and all k_j by 1 - t,
    they change by t^2, so that the loss's derivative by t is 0, and that is <dQ, Q> - <dK, K>. In the formulas both are
    scale sum_ij dS_ij q_i . k_j. Caps, slopes, masks and sinks leave that as it is; so do constant branch weights.
    """
    return {} if case.gradients else "gradients are not asked for"


def value_column_sums(case: Case, dialect: str) -> dict[str, Any] | str:
    """The columns of dV have the sums of those of dO over rows that see something.

    sum_j dV_j = sum_i (sum_j P_ij) dO_i, and a row's weights have the sum 1; with a sink they have
    1 - exp(sink - lse_i), which takes the target's lse. (`grouped-mean` divides dV by the number of branches.)
    """
    return {} if case.gradients else "gradients are not asked for"


def hidden_keys(case: Case, dialect: str) -> dict[str, Any] | str:
    """Other keys and values where a row does not see them leave its out and lse as they were, bit for bit.

    M_ij = 0 takes the pair out of every sum: what is hidden must not matter, not even by its rounding. Changed are the
    keys from some position on, under a causal mask, and the rows before that are compared; or those of the last
    document and the rows of the others.
    """
    n = case.length
    if case.is_causal and n > 1:
        cut = n - max(1, n // 5)
        return {"changed": (cut, n), "judged": (0, cut)}
    lengths = case.document_lengths
    if lengths is not None and len(lengths) > 1 and 0 < lengths[-1] < sum(lengths):
        return {"changed": (sum(lengths) - lengths[-1], n), "judged": (0, sum(lengths) - lengths[-1])}
    return "no key is hidden from a range of rows without a causal mask or documents"


def permutation(case: Case, dialect: str) -> dict[str, Any] | str:
    """Batch rows in another order, one call for each of them, and kv heads of equal offsets exchanged: as before.

    No sum runs over the batch or over kv heads, and a head enters by its offset in each branch alone (and by its slope,
    its sink and what a mask says of it, where heads are not exchanged). The results are the same rows in another order;
    they may round otherwise, as products of other shapes do.
    """
    return {"heads": _exchangeable(case, dialect), "tolerance": tolerance(case)}


def linearity(case: Case, dialect: str) -> dict[str, Any] | str:
    """The call is linear in value, and its gradients are in dO: those of even and of odd positions add up to all.

    out = P V with P free of V, and dV = P^T dO, dS = P (dO V^T - dO . out) and what follows from it are linear in dO.
    A value is its even rows, the odd ones set to 0, plus its odd rows, exactly, in any dtype.
    """
    return {"tolerance": tolerance(case)}


def _exchangeable(case: Case, dialect: str) -> tuple[int, int] | None:
    """Two kv heads whose query heads have equal offsets in every branch; None if there are none."""
    if case.slopes or case.sink is not None or case.mask is not None:
        return None
    branches = reference.branches(case.segment_lengths, case.dilation_rates)
    offsets = reference.head_offsets(case.heads, branches, dialect).reshape(len(branches), case.kv_heads, -1)
    for one in range(case.kv_heads):
        for other in range(one + 1, case.kv_heads):
            if np.array_equal(offsets[:, one], offsets[:, other]):
                return one, other
    return None


def _differences(case: Case, parts: Sequence[Numbers]) -> list[tuple[str, float, int | None]]:
    found = []
    for name in parts[0]:
        fars, sizes, firsts = zip(*(part[name] for part in parts), strict=True)
        used = max(fars) / (tolerance(case) * max(sizes)) if max(sizes) > 0.0 else math.inf if max(fars) > 0.0 else 0.0
        first = min((one for one in firsts if one is not None), default=None)
        found.append((name, used, first if used > 1.0 else None))
    return found


def _bits(case: Case, parts: Sequence[Numbers]) -> list[tuple[str, float, int | None]]:
    found = []
    for name in parts[0]:
        firsts = [part[name] for part in parts if part[name] is not None]
        found.append((name, math.inf if firsts else 0.0, min(firsts, default=None)))
    return found


@np.errstate(all="ignore")  # sums of a wrong target may be infinite, which fails
def _products(case: Case, parts: Sequence[Numbers]) -> list[tuple[str, float, int | None]]:
    (q, q_squares), (k, k_squares) = (
        [sum(part["sums"][of][which] for part in parts) for which in (0, 1)] for of in ("queries", "keys")
    )
    by_group = (case.batch, case.kv_heads, -1)
    q, q_squares = (of.reshape(by_group).sum(axis=2) for of in (q, q_squares))
    return [("<dQ, Q> and <dK, K>", _used(q, k, q_squares + k_squares, case), None)]


@np.errstate(all="ignore")
def _columns(case: Case, parts: Sequence[Numbers]) -> list[tuple[str, float, int | None]]:
    if "values" not in parts[0]["sums"]:
        return []
    (v, v_squares), (o, o_squares) = (
        [sum(part["sums"][of][which] for part in parts) for which in (0, 1)] for of in ("values", "upstream")
    )
    by_group = (case.batch, case.kv_heads, -1, case.value_dim)
    o, o_squares = (of.reshape(by_group).sum(axis=2) for of in (o, o_squares))
    return [("columns of dV and dO", _used(v, o, v_squares + o_squares, case), None)]


def _used(one: np.ndarray, other: np.ndarray, squares: np.ndarray, case: Case) -> float:
    """The largest share of what two sums may differ by."""
    lost = ACCUMULATOR[case.dtype] * keys_of_a_query(case) * np.maximum(np.abs(one), np.abs(other))
    off = np.abs(one - other)
    used = np.where(off == 0.0, 0.0, off / (tolerance(case) * np.sqrt(squares) + lost))
    return float(np.where(np.isnan(used), np.inf, used).max(initial=0.0))


LAWS: tuple[Law, ...] = tuple(
    Law(function.__name__.replace("_", " "), procedure, function, judge, (function.__doc__ or "").partition("\n")[0])
    for function, procedure, judge in (
        (constant_value, "constant", _differences),
        (query_key_products, "sample", _products),
        (value_column_sums, "sample", _columns),
        (hidden_keys, "hidden_keys", _bits),
        (permutation, "permuted", _differences),
        (linearity, "linear", _differences),
    )
)
