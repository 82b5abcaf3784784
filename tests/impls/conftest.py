"""Worlds are kept across tests; the last test of a process ends them."""

from collections.abc import Iterator

import pytest

from tests.impls.worlds import close_all


@pytest.fixture(scope="session", autouse=True)
def _worlds_end_with_the_session() -> Iterator[None]:
    yield
    close_all()
