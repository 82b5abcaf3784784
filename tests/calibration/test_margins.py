"""The bounds of logic stand at least three decades below what any seeded mistake does."""

from __future__ import annotations

import pytest

from attention_gate.verify.mutants import KNOWN
from attention_gate.verify.mutants.trial import Bench
from tests.calibration.margins import LEAST, margin

#: Those that show in values alone, whatever the order of messages: waiting for a hang would take most of the time.
VALUES = [
    mutant
    for mutant in KNOWN
    if set(mutant.caught_by) & {"forward", "lse", "gradients"} and not mutant.capabilities
    if not set(mutant.caught_by) & {"schedules", "sub-groups"}
]


@pytest.fixture(scope="module")
def bench():
    with Bench() as running:
        yield running


@pytest.mark.parametrize("mutant", VALUES, ids=lambda mutant: mutant.name)
def test_a_known_mistake_is_decades_away(mutant, bench: Bench) -> None:
    found = margin(bench, mutant)
    assert found is not None
    assert found.decades >= LEAST
