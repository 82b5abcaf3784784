"""Nothing is found in right targets, whatever the order in which messages complete."""

import pytest

from tests.verify.network.quiet import CORRECT, runs


@pytest.mark.parametrize("name", CORRECT)
def test_right_targets_are_left_alone(name: str) -> None:
    findings = list(runs(name, 18, sizes=(2, 5)))
    assert findings == [None] * 18
