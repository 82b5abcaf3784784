"""Values against the oracle: the output, the log-sum-exp, the gradients, and all options together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import (
    Axes,
    Check,
    Parameters,
    all_gradients,
    any_option,
    needs_gradients,
    plain,
)
from attention_gate.verify.judge.comparison import Verdict, assemble
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.tensor_names import GRADIENTS, OF_ALL_RANKS
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.finding import Finding


def _forward(session: Session, case: Case, parameters: Parameters) -> Verdict:
    return session.judged(case, names=("out",))


def _lse(session: Session, case: Case, parameters: Parameters) -> Verdict:
    return session.judged(case, names=("lse", "out"), lse=True)


def _gradients(session: Session, case: Case, parameters: Parameters) -> Verdict:
    return session.judged(case, names=("out", *GRADIENTS, *OF_ALL_RANKS))


def _everything(session: Session, case: Case, parameters: Parameters) -> Verdict:
    return session.judged(case, purity=True, lse=session.target.returns_lse)


def _world_sizes(session: Session, case: Case, parameters: Parameters) -> Verdict:
    """The same sequence over every number of ranks: all results within one budget of each other."""
    budget_used = 0.0
    right = session.answer(case)
    first: dict[str, np.ndarray] = {}
    first_size = 0
    for size in parameters["world_sizes"]:
        if case.length % size and not session.target.uneven:
            continue
        split = case.replace(world_size=size, pass_length=True)
        if session.fitted(split) != split:
            continue
        attended, finding = session.attend(split)
        if finding:
            return Verdict(np.inf, finding)
        positions = session.positions(split)
        verdict = session.judge(split, attended, names=())  # the form, before values are put together
        if verdict.finding:
            return verdict
        names = [name for name in ("out", *GRADIENTS) if any(part.arrays.get(name) is not None for part in attended)]
        results = {name: assemble(split, attended, positions, name) for name in names}
        for name in first:
            if name not in results:
                headline = f"{name} was returned on {first_size} rank(s) but not on {size}"
                return Verdict(np.inf, Finding("fail", headline))
            with np.errstate(all="ignore"):
                gap = np.abs(results[name] - first[name]) / (2 * right.budget[name])
            gap = np.where(results[name] == first[name], 0.0, np.where(np.isnan(gap), np.inf, gap))
            budget_used = max(budget_used, float(gap.max(initial=0.0)))
            if budget_used > 1.0:
                where = np.unravel_index(int(np.argmax(gap)), gap.shape)
                values = f"{first[name][where]:.9g} at {first_size} and {results[name][where]:.9g} at {size}"
                index = [int(i) for i in where]
                return Verdict(
                    budget_used,
                    Finding(
                        "fail",
                        f"{name} depends on the number of ranks: {first_size} and {size} ranks disagree",
                        (f"largest difference: {name}{index} is {values} ranks",),
                        tensor=name,
                    ),
                )
        if not first:
            first, first_size = results, size
    return Verdict(budget_used)


def _one_rank(target: Target, world_sizes: Sequence[int]) -> Axes:
    wanted = all_gradients(target)
    return plain(requires_grad=wanted, shards=("even",))(target, world_sizes) | {"ranks": (min(world_sizes),)}


FORWARD = Check(
    name="forward",
    promise="returns the oracle's output",
    axes=plain(terms=True),
    examine=_forward,
    weight=3,
)
LSE = Check(
    name="lse",
    promise="returns the oracle's log-sum-exp (natural logarithm, -inf for rows that see nothing)",
    builds_on=("forward",),
    axes=plain(terms=True),
    examine=_lse,
    weight=0.75,
    needs=lambda target, sizes: "" if target.returns_lse else "the target does not offer return_lse (optional)",
)
GRADIENTS_CHECK = Check(
    name="gradients",
    promise="returns the oracle's gradients of query, key and value",
    builds_on=("forward",),
    axes=plain(terms=True, requires_grad=("qkv",)),
    examine=_gradients,
    weight=2,
    needs=needs_gradients,
)
WORLD_SIZES = Check(
    name="world-sizes",
    promise="gives the same answer however many ranks share the sequence",
    builds_on=("forward", "gradients"),
    axes=_one_rank,
    examine=_world_sizes,
    weight=0.5,
    needs=lambda target, sizes: "" if len(sizes) > 1 else "only one world size is judged",
    # Saved with the example: a replay compares the same worlds.
    parameters=lambda session: st.just({"world_sizes": list(session.world_sizes)}),
)
COMBINATIONS = Check(
    name="combinations",
    promise="is right under combinations of all options, until every pair of options has occurred",
    builds_on=("gradients", "forward"),
    axes=any_option,
    examine=_everything,
    weight=2,
    pairwise=True,
)
