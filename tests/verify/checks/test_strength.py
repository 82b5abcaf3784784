"""What a judgement is worth is computed for what this target declares."""

from __future__ import annotations

import pytest

from attention_gate import Target
from attention_gate.verify.checks.strength import recorded, strength
from attention_gate.verify.target.choices import TERMS


def attend(query, key, value, **options):
    """Only declared, never called."""


WHOLE = strength("standard")


def test_a_target_that_takes_everything_is_asked_for_everything():
    """Of keys that are interleaved no target takes the others' layout."""
    found = strength("standard", target=Target(attend=attend, terms=tuple(TERMS)))
    interleaved = [name for name, row in recorded()["mutants"].items() if "interleave=" in str(row["minimal"])]
    assert (found.beyond, WHOLE.beyond) == (len(interleaved), 0)
    assert found.survivors == WHOLE.survivors


@pytest.mark.parametrize(
    ("declared", "gone"),
    [
        ({"masks": (False,)}, "M08"),
        ({"masks": (False,)}, "M12"),
        ({"gradients": False}, "M20"),
        ({"gradients": False}, "M31"),
        ({"branches": "dense"}, "M18"),
        ({"subgroups": False}, "M36"),
        ({"value_dim": False}, "M07"),
    ],
)
def test_mistakes_that_need_what_it_does_not_take_are_not_counted_as_caught(declared, gone):
    found = strength("standard", target=Target(attend=attend, **declared))
    assert found.beyond > 0
    assert found.known < WHOLE.known
    assert gone not in found.survivors
    assert f"in the calls that it takes ({found.beyond} more cannot)" in str(found)
    assert found.known + found.others + found.beyond == WHOLE.known + WHOLE.others


def test_causal_calls_alone_stand_for_calls_without_a_mask():
    assert strength("standard", target=Target(attend=attend, masks=(True,))).known > 35
