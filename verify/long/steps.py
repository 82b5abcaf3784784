"""The steps in which one long case is judged: its sampled rows with the laws of sums, and each other law."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.long.chosen_rows import RANDOM_QUERIES, choose
from attention_gate.verify.long.laws import LAWS, Law
from attention_gate.verify.long.sampled_verdict import judge_rows, sampled_answer
from attention_gate.verify.rank.jobs import Job
from attention_gate.verify.target.choices import CONVENTIONS
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.finding import Finding
from attention_gate.verify.world.launched_ranks import LaunchedWorlds

SAMPLES = "samples"
_SAMPLE = "sample"

#: Shares are finite numbers in reports.
_MOST = 1e300

#: The steps in their order, by name.
STEPS = (SAMPLES, *(law.name for law in LAWS if law.procedure != _SAMPLE))


@dataclass(frozen=True)
class Outcome:
    """How a step came out.

    ``verdict``: "pass", "fail", "crash", "hang" or "not asked". ``used``: the largest share of a bound or a tolerance.
    ``lines``: what is wrong, why it was not asked, or what was measured; ``first``: the first wrong position.
    """

    verdict: str
    used: float = 0.0
    lines: tuple[str, ...] = ()
    first: int | None = None

    @property
    def failed(self) -> bool:
        """Whether something is wrong with the target."""
        return self.verdict in ("fail", "crash", "hang")


def examine(
    session: Session,
    case: Case,
    step: str,
    *,
    seed: int = 0,
    seconds: float | None = None,
    random_queries: int = RANDOM_QUERIES,
) -> Outcome:
    """Judge one case in one step; ``seconds`` is how long the ranks may take.

    ``random_queries`` are drawn for the step of samples, beside those where mistakes live.
    """
    if step == SAMPLES:
        return _samples(session, case, seed, seconds, random_queries)
    law = next(law for law in LAWS if law.name == step)
    options = law.options(case, session.target.dialect)
    if isinstance(options, str):
        return Outcome("not asked", lines=(options,))
    parts, finding = _on_ranks(session, case, law.procedure, seconds, **options)
    return _of_finding(finding) if finding else _of_law(law, case, parts)


def _samples(session: Session, case: Case, seed: int, seconds: float | None, random_queries: int) -> Outcome:
    dialect = session.target.dialect
    chosen = choose(case, session.positions(case).keys, seed, random_queries=random_queries)
    rows = {"queries": chosen.queries, "keys": chosen.keys}
    parts, finding = _on_ranks(session, case, _SAMPLE, seconds, dialect=dialect, **rows)
    if finding:
        return _of_finding(finding)
    judged = judge_rows(case, chosen, parts, sampled_answer(case, chosen, dialect), dialect)
    queries, keys = chosen.random
    lines = [
        f"{len(chosen.queries)} queries ({queries} at random) and {len(chosen.keys)} keys ({keys} at random)",
        f"of 0.1 % wrong rows the random queries miss all with a probability of {100 * chosen.escapes(0.001):.2g} %",
    ]
    if any(judged.rms.values()) and case.data == "one-sided":
        errors = ", ".join(f"{name} {ratio:.2f}" for name, ratio in judged.rms.items() if name != "lse")
        lines.append(f"root-mean-square errors in roundings to {case.dtype}: {errors}")
    verdict, used = "fail" if judged.lines else "pass", min(judged.budget_used, _MOST)
    found = [Outcome(verdict, used, judged.lines or tuple(lines), judged.first)]
    found += [_of_law(law, case, parts) for law in LAWS if law.procedure == _SAMPLE and case.gradients]
    return _joined(found)


def laws_of_sums(session: Session, case: Case, *, seconds: float | None = None) -> dict[str, Outcome]:
    """The laws that compare sums over all rows, by name, without the oracle."""
    if not case.gradients:
        return {}
    nothing = np.zeros(0, dtype=np.int64)
    options = {"queries": nothing, "keys": nothing, "dialect": session.target.dialect}
    parts, finding = _on_ranks(session, case, _SAMPLE, seconds, **options)
    of_sums = [law for law in LAWS if law.procedure == _SAMPLE]
    return {law.name: _of_finding(finding) if finding else _of_law(law, case, parts) for law in of_sums}


def _joined(found: Sequence[Outcome]) -> Outcome:
    wrong = [one for one in found if one.failed]
    firsts = [one.first for one in found if one.first is not None]
    lines = tuple(line for one in wrong or found for line in one.lines)
    return Outcome("fail" if wrong else "pass", max(one.used for one in found), lines, min(firsts, default=None))


def _of_law(law: Law, case: Case, parts: Sequence[dict[str, Any]]) -> Outcome:
    compared = law.judge(case, parts)
    wrong = [one for one in compared if not one[1] <= 1.0]
    used = max((one[1] for one in compared), default=0.0)
    if not wrong:
        return Outcome("pass", used)
    lines = [f"the law of {law.name} does not hold: {law.states}"]
    for what, share, first in wrong:
        where = "" if first is None else f", first at position {first}"
        times = "changed" if math.isinf(share) else f"{share:.3g} times what rounding explains"
        lines.append(f"  {what}: {times}{where}")
    firsts = [first for *_, first in wrong if first is not None]
    return Outcome("fail", min(used, _MOST), tuple(lines), min(firsts, default=None))


def _of_finding(finding: Finding) -> Outcome:
    return Outcome(finding.outcome, lines=(finding.headline, *finding.details))


def _on_ranks(
    session: Session, case: Case, procedure: str, seconds: float | None, **options: Any
) -> tuple[list[dict[str, Any]], Finding | None]:
    world = session.worlds[case.world_size]
    placed = world.place(case) if isinstance(world, LaunchedWorlds) else case
    target = session.target
    as_ours = (target.lse_sink, target.lse_slopes) == (CONVENTIONS["lse_sink"][0], CONVENTIONS["lse_slopes"][0])
    options = session.spoken({"lse": target.returns_lse and as_ours, **options})
    world.submit(Job(procedure, session.source, (placed,), (session.positions(case),), options, seconds=seconds))
    run = world.collect()
    if finding := finding_of(run):
        return [], finding
    return [run.value(rank) for rank in case.ranks], None
