"""Bitwise equality: the same call gives the same bits, again and in whatever order messages arrive (claimed)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.judge.tensor_names import in_words
from attention_gate.verify.network.network import MODELS, Schedule
from attention_gate.verify.rank.attended import Attended
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.finding import Finding

#: Choices that the simulated network delivers by, one of them the other way round.
_ORDERS = ((), (7, 0, 5, 2, 7, 1, 6, 3, 7, 4))


def _bitwise(session: Session, case: Case, parameters: Parameters) -> Verdict:
    runs: list[tuple[str, list[Attended]]] = []
    for words in ("the first run", "a second run"):
        attended, finding = session.attend(case, lse=session.target.returns_lse)
        if finding:
            return Verdict(np.inf, finding)
        runs.append((words, attended))
    if (found := _difference(case, runs)) is not None or case.shards == 1 or session.device != "cpu":
        return Verdict(0.0 if found is None else np.inf, found)
    runs = []
    for model in MODELS:
        for choices in _ORDERS:
            simulation = simulate(session, case, schedule=Schedule(model, choices), order=[0], judged=False)
            if simulation.finding is not None:
                return Verdict(np.inf, simulation.finding)
            attended = [simulation.run.value(rank)[0] for rank in case.ranks]
            runs.append((f"messages delivered {model}, choices {list(choices)}", attended))
    found = _difference(case, runs)
    return Verdict(0.0 if found is None else np.inf, found)


def _difference(case: Case, runs: list[tuple[str, list[Attended]]]) -> Finding | None:
    """The first bits in which a run differs from the first one."""
    (first_words, first), *others = runs
    for words, attended in others:
        for rank, one, other in zip(case.ranks, first, attended, strict=True):
            for name, array in one.arrays.items():
                again = other.arrays.get(name)
                if array is None or again is None or array.tobytes() == again.tobytes():
                    continue
                where = [
                    int(i) for i in np.argwhere(array.view(f"u{array.itemsize}") != again.view(f"u{array.itemsize}"))[0]
                ]
                values = f"{array[tuple(where)]!r} and {again[tuple(where)]!r}"
                return Finding(
                    "fail",
                    f"{in_words(name)} is not bitwise the same from run to run, on rank {rank}",
                    (f"{name}{where} is {values}", f"compared: {first_words}; {words}"),
                    tensor=name,
                )
    return None


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    wanted = all_gradients(target)
    return plain(requires_grad=wanted, dtype=target.dtypes, data=("normal",))(target, world_sizes)


BITWISE = Check(
    name="bitwise",
    promise="returns the same bits from run to run, in whatever order messages arrive (claimed)",
    builds_on=("forward", "gradients"),
    axes=_axes,
    examine=_bitwise,
    weight=0.3,
    needs=lambda target, sizes: "" if "bitwise" in target.claims else "the target does not claim bitwise",
    max_rows=4,
)
