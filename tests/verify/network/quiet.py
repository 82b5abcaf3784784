"""Right targets under random schedules, as the check judges them: whatever is found there is a false alarm."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from contextlib import closing

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.schedules import SCHEDULES
from attention_gate.verify.judge.session import Session
from attention_gate.verify.network.network import MODELS
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.finding import Finding
from attention_gate.verify.world.local import Worlds

#: Targets without a mistake, and the dialect that each speaks.
CORRECT = {
    "impls.robust:attend": "longnet",
    "impls.collective:attend": "longnet",
    "tests.verify.network.ring:attend": "longnet",
    "attention_gate.verify.mutants.bases.ring:attend": "longnet",
    "attention_gate.verify.mutants.bases.gather:attend": "longnet",
    "attention_gate.verify.mutants.bases.grouped:attend": "grouped-mean",
}
SIZES = (2, 3, 4, 5, 6, 7, 8, 11, 13, 16)


def runs(name: str, schedules: int, sizes: Sequence[int] = SIZES) -> Iterator[Finding | None]:
    """What each of so many random schedules finds in a target; sizes of the world and models take turns."""
    target, source = as_target(name)
    target = Target(attend=target.attend, dialect=CORRECT[name])
    draws = [_drawn(name, number, sizes) for number in range(schedules)]
    for size in sizes:  # the processes of one size at a time
        with Worlds() as worlds, closing(SimulatedWorlds()) as network:
            session = Session(target, source, worlds, (size,), network=network)
            for case, parameters in draws:
                if case.world_size == size:
                    yield SCHEDULES.examine(session, case, parameters).finding


def _drawn(name: str, number: int, sizes: Sequence[int]) -> tuple[Case, dict[str, object]]:
    draw = random.Random(f"{name} {number}")
    size, model = sizes[number % len(sizes)], MODELS[number // len(sizes) % len(MODELS)]
    group = None
    if size > 2 and draw.random() < 0.25:
        group = tuple(sorted(draw.sample(range(size), draw.randrange(2, size))))
    shards = size if group is None else len(group)
    length = draw.randrange(0, 3 * shards)
    branches = [(draw.randrange(1, length + 2), draw.randrange(1, 5)) for _ in range(draw.randrange(1, 3))]
    case = Case(
        world_size=size,
        group=group,
        length=length,
        pass_length=True,
        heads=2,
        kv_heads=draw.randrange(1, 3),
        head_dim=2,
        value_dim=3,
        segment_lengths=tuple(segment for segment, _ in branches),
        dilation_rates=tuple(rate for _, rate in branches),
        is_causal=draw.random() < 0.5,
        seed=number,
    )
    choices = [draw.randrange(8) for _ in range(draw.randrange(13))]
    return case, {"model": model, "choices": choices, "calls": draw.choice((1, 1, 2))}
