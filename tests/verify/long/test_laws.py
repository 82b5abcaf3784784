"""Each law catches known mistakes, lets right programs pass, and does not see what it cannot see."""

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
