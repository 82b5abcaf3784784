"""One bench for all explanations: its worlds are started once."""

from collections.abc import Iterator

import pytest

from attention_gate.verify.mutants.trial import Bench


@pytest.fixture(scope="session")
def bench() -> Iterator[Bench]:
    """Worlds of up to three ranks, the standard profile's examples, and time to shrink on a machine that is busy."""
    with Bench(world_sizes=(1, 2, 3), shrink_seconds=30.0) as kept:
        yield kept
