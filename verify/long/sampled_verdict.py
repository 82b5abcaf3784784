"""Results at sampled rows against the sampled oracle: each element within its bound, and the mean error small."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention_gate import reference
from attention_gate.verify.case.branch_share import branch_share
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.drawn_rows import DrawnRows, sources
from attention_gate.verify.case.masks import visibility
from attention_gate.verify.case.styles import ONE_SIDED
from attention_gate.verify.judge.comparison import shares
from attention_gate.verify.judge.oracle import score_terms
from attention_gate.verify.judge.rms_error import RMS_LIMITS, rms_ratio
from attention_gate.verify.judge.tensor_names import GRADIENTS, in_words
from attention_gate.verify.long.chosen_rows import Chosen, queries_that_see
from attention_gate.verify.long.long_cases import keys_of_a_query
from attention_gate.verify.long.row_bounds import Largest, row_bounds
from attention_gate.verify.target.choices import LEAST_BLOCKS

#: Root-mean-square errors over more keys of one branch are reported and not judged: the limits were fitted on short
#: sums, and fused kernels on GPUs lose more than one rounding over long ones (docs/long.md).
FITTED_KEYS = 8192

#: Of fewer elements a root-mean-square says little.
_LEAST = 256


@dataclass(frozen=True)
class Judged:
    """How rows came out: the largest share of a bound, root-mean-square errors by tensor in units of one rounding.

    ``first`` is the first wrong position, ``lines`` say what is wrong; none if nothing is.
    """

    budget_used: float
    rms: dict[str, float]
    first: int | None
    lines: tuple[str, ...]


class WithColumn(DrawnRows):
    """The same rows with one more column, of zeros in the value and of ones in the upstream gradient.

    A value of zero changes neither outputs nor D, and its gradient, sum_i P_ij * 1, is what the bounds need.
    """

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """batch, length, heads or kv_heads, dim."""
        *others, dim = super().shape
        return others[0], others[1], others[2], dim + 1

    def __getitem__(self, at: tuple[slice, np.ndarray]) -> np.ndarray:
        found = super().__getitem__(at)
        return np.concatenate([found, np.full((*found.shape[:-1], 1), float(self.name == "upstream"))], axis=-1)


def options_of(case: Case, dialect: str) -> dict[str, Any]:
    """The arguments of the sampled oracle besides tensors and rows."""
    return {
        "segment_lengths": case.segment_lengths,
        "dilation_rates": case.dilation_rates,
        "is_causal": case.is_causal,
        "scale": case.scale,
        "dialect": dialect,
        **visibility(case),
        **score_terms(case),
    }


def scores_of(case: Case, chosen: Chosen, dialect: str) -> int:
    """How many scores the oracle computes for these rows."""
    shapes = [source.shape for source in sources(case)[:2]]
    return reference.sampled_scores(*shapes, queries=chosen.queries, keys=chosen.keys, **options_of(case, dialect))


@dataclass(frozen=True)
class SampledAnswer:
    """What is right at the chosen rows, by name as in judge.oracle.Answer, and the columns' sums of the weights."""

    expected: dict[str, np.ndarray]
    column_sums: np.ndarray


def sampled_answer(case: Case, chosen: Chosen, dialect: str) -> SampledAnswer:
    """Ask the sampled oracle."""
    query, key, _, _ = sources(case)
    at = reference.sampled_attention(
        query,
        key,
        WithColumn(case, "value"),
        WithColumn(case, "upstream"),
        queries=chosen.queries,
        keys=chosen.keys,
        **options_of(case, dialect),
    )
    expected = {"out": at.out[..., :-1], "lse": at.lse}
    expected |= {"query.grad": at.query, "key.grad": at.key, "value.grad": at.value[..., :-1]}
    return SampledAnswer(expected, at.value[..., -1])


def gathered(case: Case, chosen: Chosen, parts: Sequence[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The ranks' rows put to their places among the chosen ones; NaN where a rank gave none."""
    found: dict[str, np.ndarray] = {}
    for part in parts:
        for name, values in part["rows"].items():
            of = "keys" if name in ("key.grad", "value.grad") else "queries"
            axis = 2 if name == "lse" else 1
            if name not in found:
                shape = list(values.shape)
                shape[axis] = len(getattr(chosen, of))
                found[name] = np.full(shape, np.nan)
            found[name][(slice(None),) * axis + (part["owned"][of],)] = values
    return found


def judge_rows(
    case: Case, chosen: Chosen, parts: Sequence[dict[str, Any]], answer: SampledAnswer, dialect: str
) -> Judged:
    """Judge what the ranks returned at the chosen rows."""
    got = gathered(case, chosen, parts)
    names = [name for name in answer.expected if name in got and (name not in GRADIENTS or case.gradients)]
    largest = Largest(**{name: _over(parts, name) for name in ("query", "key", "value", "upstream")})
    most = max((queries_that_see(case, int(key)) for key in chosen.keys), default=1)
    comes_out = branch_share(case, dialect)
    bounds = row_bounds(
        case,
        largest,
        {name: answer.expected[name] for name in names},
        keys_seen=keys_of_a_query(case),
        queries_seen=most,
        column_sums=answer.column_sums / comes_out,
        share=comes_out,
    )
    used, rms, wrong, firsts = 0.0, {}, [], []
    for name in names:
        right = answer.expected[name]
        share = shares(got[name], right, np.broadcast_to(bounds[name], right.shape), case.dtype)
        used = max(used, float(share.max(initial=0.0)))
        bad = np.flatnonzero(
            (share > 1.0).any(axis=tuple(k for k in range(share.ndim) if k != (2 if name == "lse" else 1)))
        )
        rows = chosen.keys if name in ("key.grad", "value.grad") else chosen.queries
        if len(bad):
            firsts.append(int(rows[bad[0]]))
            wrong.append(f"{in_words(name)} is wrong in {len(bad)} of {len(rows)} sampled rows, first {firsts[-1]}")
        rms[name] = rms_ratio(got[name], right, case.dtype if name != "lse" else "float32", _LEAST)
        if limit := _limit(case, name):
            used = max(used, rms[name] / limit)
            if rms[name] > limit:
                wrong.append(
                    f"the root-mean-square error of {in_words(name)} is {rms[name]:.2f} times that of one rounding to "
                    f"{case.dtype}; the limit is {limit}"
                )
    return Judged(used, rms, min(firsts, default=None), tuple(wrong))


def _limit(case: Case, name: str) -> float | None:
    """The limit of the root-mean-square error: on data whose sums do not cancel, of what comes in a half type."""
    if case.data != ONE_SIDED or name == "lse" or _longest_sum(case) > FITTED_KEYS:
        return None
    return RMS_LIMITS[LEAST_BLOCKS, "one" if len(case.segment_lengths) == 1 else "several"][name]


def _longest_sum(case: Case) -> int:
    """The most keys that a query sees in one branch."""
    pairs = zip(case.segment_lengths, case.dilation_rates, strict=True)
    return max(-(-min(w, case.length) // r) for w, r in pairs)


def _over(parts: Sequence[dict[str, Any]], name: str) -> tuple[float, float]:
    pairs = [part["largest"].get(name, (0.0, 0.0)) for part in parts]
    return max(pair[0] for pair in pairs), max(pair[1] for pair in pairs)
