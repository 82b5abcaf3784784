"""Each law catches known mistakes, lets right programs pass, and does not see what it cannot see."""

import math

import numpy as np
import pytest

from attention_gate import Case
from attention_gate.verify.long.laws import LAWS
from tests.verify.long.law_matrix import matrix

#: For each law some mistakes that it catches, without a race, in one call.
CAUGHT = {
    "constant value": {"M12", "M17"},
    "query key products": {"M20", "M28", "M31"},
    "value column sums": {"M26", "M28"},
    "hidden keys": {"M13", "M32"},
    "permutation": {"X46"},
    "linearity": {"X46", "X52"},
}

#: What is wrong in the same way for all rows that it concerns keeps every law: another scale, too few visible keys.
NOT_SEEN = {"M07", "M08", "M19"}

#: Changes that change nothing; M14 cuts head groups of unequal size wrong, and these are equal (`grouped-mean`).
RIGHT = {"E01", "E03", "M14"}


def test_what_the_laws_catch_and_what_they_cannot():
    assert set(CAUGHT) == {law.name for law in LAWS}
    found = matrix(set().union(*CAUGHT.values()) | NOT_SEEN | RIGHT)
    for law, mutants in CAUGHT.items():
        assert {name for name in mutants if law not in found[name]} == set(), law
    for name in NOT_SEEN | RIGHT:
        assert found[name] == set(), name


@pytest.mark.parametrize("sums", [(math.inf, math.inf), (math.inf, -math.inf), (math.nan, 1.0), (1e308, 1e308)])
def test_sums_that_are_no_numbers_break_the_laws_of_sums_without_a_warning(sums: tuple[float, float]):
    case = Case(world_size=2, length=2)
    shapes = {"queries": (1, 1), "keys": (1, 1), "values": (1, 1, 1), "upstream": (1, 1, 1)}
    right = {of: [np.ones(shape), np.ones(shape)] for of, shape in shapes.items()}
    for law in (law for law in LAWS if law.procedure == "sample"):
        assert [share for _, share, _ in law.judge(case, [{"sums": right}] * 2)] == [0.0]
        for wrong, shape in shapes.items():
            parts = [{"sums": right | {wrong: [np.full(shape, of), np.full(shape, abs(of))]}} for of in sums]
            concerns = (wrong in ("queries", "keys")) == (law.name == "query key products")
            assert all((share <= 1.0) != concerns for _, share, _ in law.judge(case, parts)), (law.name, wrong)
