"""Whether what a target returns for a workload is right: a fast wrong answer is not fast."""

from __future__ import annotations

from contextlib import closing
from typing import Any

from attention_gate.verify.case.case import Case
from attention_gate.verify.compare.bytes_sent import whole
from attention_gate.verify.compare.workloads import WORKLOADS
from attention_gate.verify.judge.session import Session
from attention_gate.verify.long.chosen_rows import RANDOM_QUERIES
from attention_gate.verify.long.long_cases import keys_of_a_query
from attention_gate.verify.long.steps import SAMPLES, examine
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.source import TargetError
from attention_gate.verify.world.local import Worlds

#: Scores of all heads up to which every row is judged, by the dense oracle.
_DENSE = 1 << 22

#: Scores that the oracle may compute for random queries of a longer workload; some tens of nanoseconds each.
_SAMPLED = 1e9

_FEWEST_QUERIES = 16


def judged(path: str, names: list[str], world_size: int, device: str, seconds: float) -> dict[str, dict[str, Any]]:
    """What the judge says of each workload: "judged" in words, and "wrong", a line, where something is.

    Outputs and gradients of every row where the dense oracle fits, else of sampled rows. A target that cannot be
    called has the reason as "judged".
    """
    found: dict[str, dict[str, Any]] = {}
    target, source = as_target(path)
    with Worlds(device=device) as worlds, closing(SimulatedWorlds(device=device)) as network:
        try:
            session = Session(target, source, worlds, (world_size,), network=network)
            for name in names:
                case = whole(WORKLOADS[name], world_size)
                case = session.fitted(case.replace(requires_grad="qkv" if target.gradients else ""))
                found[name] = _judged(session, case, seconds)
        except TargetError as error:
            return {name: {"judged": str(error)} for name in names} | found
    return found


def _judged(session: Session, case: Case, seconds: float) -> dict[str, Any]:
    if case.length**2 * case.heads <= _DENSE:
        finding = session.judged(case).finding
        wrong = "" if finding is None else finding.headline
        words = "all rows"
    else:
        outcome = examine(session, case, SAMPLES, seconds=seconds, random_queries=_queries(case))
        wrong = outcome.lines[0] if outcome.failed else ""
        words = "sampled rows" if outcome.failed else outcome.lines[0]
    return {"judged": words} | ({"wrong": wrong} if wrong else {})


def _queries(case: Case) -> int:
    """As many random queries as the oracle has time for."""
    each = keys_of_a_query(case) * case.heads * case.batch
    return int(min(RANDOM_QUERIES, max(_FEWEST_QUERIES, _SAMPLED / max(each, 1))))
