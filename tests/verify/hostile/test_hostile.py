"""Whatever a target does, the verdict is true and comes soon, in words, and nothing is left of it."""

from __future__ import annotations

import pytest

from tests.verify.hostile.judging import judge
from tests.verify.hostile.table import TABLE, Hostile

#: With little patience a hang is given up after some 2 s, and shrinking and repeating it take 6 s and 2 s.
SECONDS = 40.0


@pytest.mark.usefixtures("hurried")
@pytest.mark.parametrize("hostile", TABLE, ids=str)
def test_a_hostile_target_gets_its_verdict(hostile: Hostile) -> None:
    judged = judge(hostile)
    assert judged.outcome == hostile.outcome, judged.text
    for words in hostile.words.split("…"):
        assert words in judged.text
    assert judged.seconds < SECONDS
    assert judged.processes == []
    assert judged.files == []
    assert judged.descriptors <= 0
