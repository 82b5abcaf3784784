"""The space of options: rows that cover every pair that can occur, and no row that cannot."""

import itertools
import random

import pytest

from attention_gate import Target
from attention_gate.verify.case.options import covering_rows, feasible, feasible_pairs, pairs, space
from attention_gate.verify.checks import CHECKS
from attention_gate.verify.target.choices import TERMS
from tests.verify.targets import few, zigzag_target


def attend(query, key, value, **options):
    """Only declared, never called."""


TARGETS = {
    "whole contract": Target(attend=attend),
    "few": few,
    "zigzag": zigzag_target,
    "causal only": Target(attend=attend, masks=(True,), uneven=False, value_dim=False),
    "all terms": Target(attend=attend, terms=tuple(TERMS)),
}


SUPPORTED = [
    pytest.param(check, target, sizes, id=f"{check.name}-{name}-{sizes}")
    for check in CHECKS
    for name, target in TARGETS.items()
    for sizes in [(1,), (2,), (1, 2), (1, 2, 3, 4), (3, 8)]
    if not check.missing(target, sizes)
]


@pytest.mark.parametrize(("check", "target", "sizes"), SUPPORTED)
def test_rows_cover_every_pair_that_can_occur_and_can_all_occur(check, target, sizes):
    axes, largest = check.space(target, sizes), max(sizes)
    rows = covering_rows(axes, largest)
    assert all(row.keys() == axes.keys() for row in rows)
    assert all(row[name] in axes[name] for row in rows for name in row)
    assert [row for row in rows if not feasible(row, largest)] == []
    assert feasible_pairs(axes, largest) - {pair for row in rows for pair in pairs(row)} == set()


def test_rows_are_few():
    axes = space(TARGETS["whole contract"], (1, 2, 3, 4))
    largest_pair = max(len(axes[a]) * len(axes[b]) for a, b in itertools.combinations(axes, 2))
    assert len(covering_rows(axes, 4)) < 2 * largest_pair


def test_the_first_row_is_the_simplest():
    axes = space(TARGETS["whole contract"], (1, 2, 3, 4))
    assert covering_rows(axes, 4)[0] == {name: values[0] for name, values in axes.items()}


def test_what_a_target_does_not_support_is_in_no_row():
    axes = space(few, (1, 2, 3))
    assert axes["branches"] == ("dense",)
    assert axes["shards"] == ("even",)
    assert axes["heads"] == ("single", "several", "many")
    assert axes["value_dim"] == ("same", "different", "wide")
    assert axes["dtype"] == ("float32",)
    assert axes["requires_grad"] == ("",)
    assert axes["group"] == ("default",)
    assert space(TARGETS["causal only"], (2,))["mask"] == ("causal",)


def test_a_pair_that_cannot_occur_is_not_asked_for():
    axes = space(TARGETS["whole contract"], (1, 2))
    wanted = feasible_pairs(axes, 2)
    assert (("ranks", 1), ("shards", "uneven")) not in wanted
    assert (("group", "sub-group"), ("ranks", 2)) not in wanted
    assert (("group", "sub-group"), ("ranks", 1)) in wanted


def test_a_row_is_feasible_only_if_its_pairs_are():
    """Which feasible() decides for parts of a row too, as the greedy choice of rows relies on it."""
    axes = space(TARGETS["whole contract"], (1, 2, 3, 4))
    wanted = feasible_pairs(axes, 4)
    choose = random.Random(0)
    for _ in range(300):
        row = {name: choose.choice(values) for name, values in axes.items()}
        assert feasible(row, 4) == (set(pairs(row)) <= wanted)
