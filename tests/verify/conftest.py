"""Worlds are kept across the tests of a process, and end with it."""

from collections.abc import Iterator

import pytest

from verify.world.local import Worlds


@pytest.fixture(scope="session")
def worlds() -> Iterator[Worlds]:
    """Worlds by size."""
    with Worlds() as kept:
        yield kept
