"""Some of the mutants before the checks: they are caught by the check that is meant for them, in a small case."""

import pytest

from attention_gate.verify.mutants import MUTANTS
from attention_gate.verify.mutants.matrix_table import line, matrix, summary

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}

#: The largest world and length that the minimal case may have.
MINIMAL = {
    "M03": (1, 1),
    "M05": (3, 9),
    "M08": (2, 4),
    "M12": (2, 2),
    "M13": (3, 3),
    "M17": (3, 3),
    "M20": (2, 3),
    "M21": (3, 4),
    "M23": (3, 3),
    "M29": (1, 1),
    "M30": (1, 1),
    "M31": (2, 2),
    "M35": (1, 1),
    "X12": (1, 1),
    "X21": (3, 3),
    "X28": (3, 3),
}


@pytest.mark.parametrize("name", MINIMAL)
def test_a_mistake_is_caught_and_its_case_is_small(bench, name):
    trial = bench.trial(BY_NAME[name], matrix=False)
    assert trial.caught, line(trial)
    assert trial.first.check == trial.mutant.caught_by[0]
    world, length = MINIMAL[name]
    assert trial.minimal.case.world_size <= world, line(trial)
    assert trial.minimal.case.length <= length, line(trial)


@pytest.mark.parametrize(
    "name", ["M27", "M40", "X04", "X24", "X44", "X46", "X51", "X59", "X64", "X68", "X74", "X79", "X80"]
)
def test_a_mistake_is_caught(bench, name):
    trial = bench.trial(BY_NAME[name], matrix=False, shrink=False)
    assert trial.caught, line(trial)


@pytest.mark.parametrize("name", ["X85", "X89"])
def test_what_is_kept_under_too_narrow_a_key_is_found_by_its_kind_of_change(bench, name):
    """By chance alone it took up to 57 examples, and 145."""
    for seed in range(3):
        first = bench.again(BY_NAME[name], seed=seed).first
        assert first.check == "state"
        assert first.examples <= 20


@pytest.mark.parametrize("name", ["E01", "E03"])
def test_a_change_that_changes_nothing_is_let_through(bench, name):
    trial = bench.trial(BY_NAME[name], shrink=False)
    assert trial.as_expected, line(trial)
    assert "kept" in line(trial)


def test_the_table_tells_what_caught_what(bench):
    trials = [bench.trial(BY_NAME[name], shrink=False) for name in ("M12", "M18")]
    rows = matrix(trials)
    assert any(row.startswith("M12") for row in rows)
    assert summary(trials, "known mistakes")[0] == "2 of 2 known mistakes caught at each of 1 seed"
    assert trials[1].cells["forward"].caught is False
    assert trials[1].cells["gradients"].caught
