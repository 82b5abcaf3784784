"""NaN and infinity in the inputs: they reach what depends on them and nothing else, and neither raise nor hang.

One row of one head of one input is not finite. What arithmetic makes of it is decided thus:

- A query that sees the row has an output that is not finite, wherever the oracle's is not. Excepted are queries all of
  whose scores are NaN or minus infinity: torch's own kernels take them for queries that see nothing, and return 0.
- Other elements of the batch, other heads (those that read another kv head) and, if the row is a query's, other
  queries never meet it in any formula: they are as if it were finite.
- Queries that do not see the row share a product of matrices with it, in which their weight of 0 times NaN is NaN. That
  is arithmetic, too, and right programs do it; where it happens it is a remark. What stays finite must be right.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from hypothesis import strategies as st

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.from_bytes import integers, together
from attention_gate.verify.case.masks import branch_masks
from attention_gate.verify.checks.check import Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict, shares, wholes
from attention_gate.verify.judge.oracle import inputs_of
from attention_gate.verify.judge.session import Session
from attention_gate.verify.world.finding import Finding

_POISONS = {"nan": float("nan"), "inf": float("inf"), "-inf": float("-inf")}


@dataclass(frozen=True)
class _Poison:
    """Where a value that is not finite stands: which input, batch element, position and head of it."""

    input: str
    batch: int
    position: int
    head: int
    value: str

    @property
    def words(self) -> str:
        """As a sentence has it."""
        head = "head" if self.input == "query" else "kv head"
        return f"{self.value} in {self.input} at position {self.position} ({head} {self.head}, batch {self.batch})"


def _non_finite(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """One row of one head is not finite: nothing raises or hangs, and each output is as arithmetic has it."""
    if not case.length:
        return Verdict(0.0)
    heads = case.heads if parameters["input"] == "query" else case.kv_heads
    poison = _Poison(
        parameters["input"],
        parameters.get("batch", 0) % case.batch,
        parameters["position"] % case.length,
        parameters.get("head", 0) % heads,
        parameters["value"],
    )
    where = (poison.input, poison.position, _POISONS[poison.value], poison.batch, poison.head)
    attended, finding = session.attend(case, poison=where)
    if finding:
        return Verdict(np.inf, finding)
    verdict = session.judge(case, attended, names=())
    if verdict.finding:
        return verdict
    verdict = Verdict(0.0)
    for got, _ in wholes(case, attended, session.positions(case), "out"):
        verdict = _judged(session, case, poison, got)
        if verdict.finding:
            break
    return verdict


def _judged(session: Session, case: Case, poison: _Poison, got: np.ndarray) -> Verdict:
    clean = session.answer(case)
    must, sees, reach = _fate(session, case, poison)
    finite = np.isfinite(got)
    off = shares(got, clean.expected["out"], clean.budget["out"], case.dtype) > 1.0
    if (hidden := must & finite).any():
        headline = f"{poison.words} does not reach outputs that depend on it: they are finite"
        return Verdict(np.inf, Finding("fail", headline, (_first(hidden, got),), tensor="out"))
    if (outside := ~reach & off).any():
        headline = f"{poison.words} changes outputs that have nothing to do with it"
        return Verdict(np.inf, Finding("fail", headline, (_first(outside, got, clean.expected["out"]),), tensor="out"))
    if (wrong := reach & ~sees & finite & off).any():
        headline = f"{poison.words} changes outputs of queries that do not see it to other finite numbers"
        return Verdict(np.inf, Finding("fail", headline, (_first(wrong, got, clean.expected["out"]),), tensor="out"))
    if (reach & ~sees & ~finite).any():
        return Verdict(0.0, remark=(1.0, _SPREADS))
    return Verdict(0.0)


_SPREADS = "NaN also reaches queries that do not see its row, as a weight of 0 times NaN does"


@np.errstate(all="ignore")
def _fate(session: Session, case: Case, poison: _Poison) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which outputs (batch, length, heads, value_dim) cannot be finite, which see the row, which it can get to."""
    inputs = inputs_of(case)
    arrays = {name: getattr(inputs, name).copy() for name in ("query", "key", "value")}
    arrays[poison.input][poison.batch, poison.position, poison.head] = _POISONS[poison.value]
    M = branch_masks(case, session.target.dialect).sum(axis=0, dtype=np.int64)
    out, _ = reference.attention(arrays["query"], arrays["key"], arrays["value"], M, case.scale)

    query, key = (arrays[name].swapaxes(1, 2) for name in ("query", "key"))
    scale = case.head_dim**-0.5 if case.scale is None else case.scale
    scores = scale * (query @ np.repeat(key, case.heads // case.kv_heads, axis=1).mT)
    some = ((M > 0) & ~np.isnan(scores) & ~np.isneginf(scores)).any(axis=-1)  # (batch, heads, length)

    reach = np.zeros((case.batch, case.length, case.heads), dtype=bool)
    if poison.input == "query":
        reach[poison.batch, poison.position, poison.head] = True
        sees = reach
    else:
        group = case.heads // case.kv_heads
        reading = slice(poison.head * group, (poison.head + 1) * group)
        reach[poison.batch, :, reading] = True
        sees = reach & (M[:, :, poison.position] > 0).T
    wide = [np.broadcast_to(part[..., None], out.shape) for part in (some.swapaxes(1, 2) & sees, sees, reach)]
    return wide[0] & ~np.isfinite(out), wide[1], wide[2]


def _first(which: np.ndarray, got: np.ndarray, expected: np.ndarray | None = None) -> str:
    batch, row, head, dim = index = tuple(int(i) for i in np.argwhere(which)[0])
    wanted = "" if expected is None else f", expected {expected[index]:.9g}"
    return f"first: out[batch {batch}, position {row}, head {head}, dim {dim}] is {got[index]:.9g}{wanted}"


def _poisons(session: Session) -> st.SearchStrategy[Parameters]:
    return together(
        input=st.sampled_from(("value", "key", "query")),
        position=integers(0, 63),
        value=st.sampled_from(tuple(_POISONS)),
        batch=integers(0, 1),
        head=integers(0, 7),
    )


NON_FINITE = Check(
    name="non-finite",
    promise="propagates NaN and infinity as arithmetic does and nowhere else, and neither raises nor hangs",
    builds_on=("forward", "gradients"),
    axes=lambda target, sizes: plain(requires_grad=all_gradients(target), data=("normal",))(target, sizes),
    examine=_non_finite,
    parameters=_poisons,
    weight=0.5,
)
