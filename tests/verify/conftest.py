"""Worlds are kept across the tests of a process, and end with it."""

from collections.abc import Callable, Iterator

import pytest

from attention_gate.verify.judge.session import Session
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.local import Worlds

WORLD_SIZES = (1, 2, 3, 4)


@pytest.fixture(scope="session")
def worlds() -> Iterator[Worlds]:
    """Worlds by size."""
    with Worlds() as kept:
        yield kept


@pytest.fixture(scope="session")
def network() -> Iterator[SimulatedWorlds]:
    """Simulated worlds by size."""
    with SimulatedWorlds() as kept:
        yield kept


@pytest.fixture(scope="session")
def session_of(network: SimulatedWorlds, worlds: Worlds) -> Callable[..., Session]:
    """A session for a target, given as text or with claims."""

    def make(text: str, **claims: tuple[str, ...]) -> Session:
        target, source = as_target(text)
        target = Target(attend=target.attend, **claims)
        return Session(target, source, worlds, WORLD_SIZES, network=network)

    return make
