"""The ring that every check over gloo lets through and GPUs never finish: isend, isend, irecv, irecv, then the waits.

The order of its calls is the only thing that is wrong with it; the same ring with its operations in a batch is right.
"""

import re
import time
from collections.abc import Callable

import pytest

from attention_gate.verify.case.case import Case
from attention_gate.verify.commands.judge_target import check
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import Schedule

UNBATCHED, BATCHED = "tests.verify.network.mistakes:unbatched", "tests.verify.network.ring:attend"

#: Checks whose transport is gloo.
OVER_GLOO = ("forward", "gradients", "world-sizes")


@pytest.mark.parametrize("name", [UNBATCHED, BATCHED])
def test_over_gloo_both_conform(name: str) -> None:
    report = check(name, profile="quick", checks=OVER_GLOO)
    assert {result.name: result.outcome for result in report.checks} == dict.fromkeys(OVER_GLOO, "pass")


@pytest.mark.parametrize("size", [2, 3, 4])
def test_where_operations_run_in_order_one_stands_still_and_the_other_does_not(
    session_of: Callable[..., Session], size: int
) -> None:
    case = Case(world_size=size, length=2 * size, segment_lengths=(2 * size,), dilation_rates=(1,), value_dim=2)
    session = session_of(BATCHED)
    right = simulate(session, case, schedule=Schedule("stream"))
    assert right.finding is None
    values = [right.run.value(rank)[0] for rank in case.ranks]
    assert session.judge(case, values).finding is None

    session = session_of(UNBATCHED)
    start = time.perf_counter()
    finding = simulate(session, case, schedule=Schedule("stream")).finding
    seconds = time.perf_counter() - start
    assert finding is not None
    assert finding.outcome == "hang"
    ranks = [int(number) for number in re.findall(r"rank (\d+)", finding.headline)]
    assert ranks[0] == ranks[-1] == 0
    assert sorted(ranks[1:]) == list(range(size))
    details = "\n".join(finding.details)
    assert "delivery: stream (as on NCCL" in details
    assert details.count("sends = [dist.isend(tensor") == size  # the line of each rank's operation that blocks
    assert seconds < 5.0
