"""Worlds on the simulated network, kept across the tests of a process; and sessions that use them."""

from collections.abc import Callable, Iterator

import pytest

from verify.network.world import SimulatedWorlds
from verify.session import Session
from verify.target import Target, as_target
from verify.world.local import Worlds

WORLD_SIZES = (1, 2, 3, 4)


@pytest.fixture(scope="session")
def network() -> Iterator[SimulatedWorlds]:
    """Simulated worlds by size."""
    with SimulatedWorlds() as kept:
        yield kept


@pytest.fixture
def session_of(network: SimulatedWorlds, worlds: Worlds) -> Callable[..., Session]:
    """A session for a target, given as text or with claims."""

    def make(text: str, **claims: tuple[str, ...]) -> Session:
        target, source = as_target(text)
        target = Target(attend=target.attend, **claims)
        return Session(target, source, worlds, WORLD_SIZES, network=network)

    return make
