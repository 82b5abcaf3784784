"""The same schedule gives the same run, failing or not, in every detail; and right targets fail under none."""

import os
import random
from collections.abc import Callable

import pytest

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import MODELS, Schedule

SLOW = bool(os.environ.get("ATTENTION_GATE_SLOW"))

FAILING = ("unbatched", "blocking_send_first", "use_before_wait", "overwrite_before_wait", "value_into_key")


def case(size: int, seed: int) -> Case:
    """Uneven shards, two branches, several heads."""
    return Case(
        world_size=size,
        length=2 * size + 1,
        pass_length=True,
        heads=2,
        head_dim=2,
        value_dim=3,
        segment_lengths=(2 * size + 1, 3),
        dilation_rates=(1, 2),
        is_causal=bool(seed % 2),
        seed=seed,
    ).replace(kv_heads=1 + seed % 2)


def schedule(seed: int) -> Schedule:
    """Any schedule."""
    draws = random.Random(seed)
    return Schedule(MODELS[seed % 3], tuple(draws.randrange(8) for _ in range(draws.randrange(13))))


def outcome(session: Session, made: Case, chosen: Schedule) -> tuple[object, ...]:
    """What was found and every message in the order of completion."""
    simulation = simulate(session, made, schedule=chosen)
    finding = simulation.finding
    if finding is None:
        finding = session.judge(made, [simulation.run.value(rank)[0] for rank in made.ranks]).finding
    # A value that was returned may be NaN, which is not equal to itself; its repr is.
    return finding and repr(finding), simulation.trace.messages, simulation.trace.logs


@pytest.mark.parametrize("name", FAILING)
def test_a_failing_schedule_fails_alike_every_time(session_of: Callable[..., Session], name: str) -> None:
    session = session_of(f"tests.verify.network.mistakes:{name}")
    failed, seed = 0, 0
    while failed < (40 if SLOW else 2):
        made, chosen = case(2 + seed % 3, seed), schedule(seed)
        first = outcome(session, made, chosen)
        seed += 1
        if first[0] is not None:
            failed += 1
            assert [outcome(session, made, chosen) for _ in range(3)] == [first] * 3


@pytest.mark.parametrize(
    "target", ["impls.robust:attend", "impls.collective:attend", "tests.verify.network.ring:attend"]
)
def test_no_schedule_makes_a_right_target_fail(session_of: Callable[..., Session], target: str) -> None:
    session = session_of(target)
    for seed in range(300 if SLOW else 12):
        found = outcome(session, case(2 + seed % 3, seed), schedule(seed))[0]
        assert found is None, found


@pytest.mark.parametrize("size", [7, 16] if SLOW else [7])
def test_large_and_prime_worlds(session_of: Callable[..., Session], size: int) -> None:
    for target in ("impls.robust:attend", "impls.collective:attend"):
        for model in MODELS:
            assert outcome(session_of(target), case(size, 1), Schedule(model, (3, 0, 6)))[0] is None
    session = session_of("tests.verify.network.mistakes:unbatched")
    finding = simulate(session, case(size, 1), schedule=Schedule("stream"), judged=False).finding
    assert finding is not None
    assert finding.headline.count("waits for rank") == size
