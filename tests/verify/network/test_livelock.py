"""Ranks that exchange messages forever are stopped, and the calls that repeat are named."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.livelock import most_operations
from attention_gate.verify.network.network import MODELS, Schedule

HERE = "tests.verify.network.test_livelock"


def steps_by_two(query, key, value, **options):
    """A ring that goes on until every rank's block has come by; over four ranks two of them never do."""
    rank, size = dist.get_rank(), dist.get_world_size()
    block, seen = torch.tensor([rank]), {rank}
    while len(seen) < size:
        incoming = torch.empty_like(block)
        operations = [
            dist.P2POp(dist.isend, block, (rank + 2) % size),
            dist.P2POp(dist.irecv, incoming, (rank - 2) % size),
        ]
        for handle in dist.batch_isend_irecv(operations):
            handle.wait()
        block = incoming
        seen.add(int(block))
    return query.detach().clone()


def gathers_for_ever(query, key, value, **options):
    """A loop whose end is never reached, of two collectives each time."""
    total = torch.zeros(1)
    while not bool(total > 1):
        dist.all_reduce(total)
        dist.barrier()
    return query.detach().clone()


def case(size: int) -> Case:
    return Case(world_size=size, length=size, segment_lengths=(size,), requires_grad="")


@pytest.mark.parametrize("model", MODELS)
def test_a_ring_that_never_comes_back_is_a_livelock(session_of: Callable[..., Session], model: str) -> None:
    session = session_of(f"{HERE}:steps_by_two")
    assert simulate(session, case(3), schedule=Schedule(model), judged=False).finding is None
    start = time.monotonic()
    simulation = simulate(session, case(4), schedule=Schedule(model, (1, 2)), judged=False)
    finding, most = simulation.finding, most_operations([case(4)])
    assert finding is not None
    assert most is not None
    assert (finding.outcome, finding.tensor) == ("hang", "livelock")
    assert "repeat their messages forever" in finding.headline
    assert f"at most {most:,}" in finding.headline
    assert any("a send to rank 2" in line and "test_livelock.py" in line for line in finding.details)
    assert max(len(simulation.trace.posts(rank)) for rank in range(4)) <= most + 2
    assert time.monotonic() - start < 30.0


def test_collectives_repeat_too(session_of: Callable[..., Session]) -> None:
    finding = simulate(session_of(f"{HERE}:gathers_for_ever"), case(2), judged=False).finding
    assert finding is not None
    assert finding.details[:3][0] == "rank 0 repeats"
    reported = sorted(finding.details[1:3])
    assert reported[0].startswith("  all_reduce, at test_livelock.py")
    assert reported[1].startswith("  barrier, at test_livelock.py")


def test_what_a_case_can_need_grows_with_it() -> None:
    one = most_operations([case(4)])
    other = most_operations([case(4).replace(segment_lengths=(4, 4), dilation_rates=(1, 2), length=40, heads=2)])
    assert one is not None
    assert other is not None
    assert one < other
    assert most_operations([case(4)] * 2) == 2 * one
    assert most_operations([]) is None
