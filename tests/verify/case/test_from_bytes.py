"""What is drawn from bytes does not depend on the version of Hypothesis."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.internal.conjecture.providers import BytestringProvider

from attention_gate.verify.case.from_bytes import integers, together
from attention_gate.verify.case.options import covering_rows
from attention_gate.verify.case.strategies import cases
from attention_gate.verify.checks import CHECKS
from attention_gate.verify.run.search import _BYTES, _Attempts
from attention_gate.verify.target.loading import as_target
from tests.verify.targets import right

SIZES = (1, 2, 3, 4)
RIGHT, _ = as_target(right)
TRIED = [check for check in CHECKS if all(check.space(RIGHT, SIZES).values())]


@pytest.fixture
def as_before_6_170(monkeypatch):
    """Bytes become whole numbers as before Hypothesis 6.170, which forgets to add the least one."""

    def draw_integer(self, min_value=None, max_value=None, *, weights=None, shrink_towards=0):
        if min_value == max_value:
            return min_value
        bits = (max_value - min_value).bit_length()
        value = self._draw_bits(bits)
        while not min_value <= value <= max_value:
            value = self._draw_bits(bits)
        return value

    monkeypatch.setattr(BytestringProvider, "draw_integer", draw_integer)


def drawn(strategy, attempts=256):
    """What the strategy makes of so many strings of bytes; each byte is used as the first one."""
    values = []

    @settings(database=None)
    @given(strategy)
    def example(value):
        values.append(value)

    for number in range(attempts):
        example.hypothesis.fuzz_one_input(bytes((number * 7 + at * 31) % 256 for at in range(64)))
    return values


@pytest.mark.usefixtures("as_before_6_170")
def test_such_a_version_draws_less_than_was_asked():
    assert drawn(st.integers(2, 3)) == []
    assert 9 not in drawn(st.integers(3, 9))
    assert drawn(st.fixed_dictionaries({name: st.booleans() for name in "abcd"})) == []


@pytest.mark.parametrize(("least", "most"), [(0, 0), (0, 3), (1, 2), (2, 3), (3, 9), (5, 5), (5, 100)])
def test_every_number_is_drawn(least, most, request):
    values = drawn(integers(least, most))
    assert set(values) == set(range(least, most + 1))
    request.getfixturevalue("as_before_6_170")
    assert drawn(integers(least, most)) == values


def test_the_parts_come_by_name_and_in_order():
    found = drawn(together(b=integers(2, 3), a=st.sampled_from("xyz"), c=st.none(), d=st.booleans()))
    assert len(found) == 256
    assert {tuple(one) for one in found} == {("b", "a", "c", "d")}
    assert {one["b"] for one in found} == {2, 3}
    assert {one["a"] for one in found} == set("xyz")


@pytest.mark.parametrize("check", TRIED, ids=lambda check: check.name)
def test_every_check_has_the_same_examples(check, request):
    axes = check.space(RIGHT, SIZES)
    session = SimpleNamespace(target=RIGHT, largest_world=SIZES[-1], world_sizes=SIZES, device="cpu")
    usual = cases(axes, covering_rows(axes, SIZES[-1]), SIZES, check.max_rows, True)

    def examples():
        attempts = _Attempts(
            SimpleNamespace(check=check, session=session), st.tuples(usual, check.parameters(session)), seed=0
        )
        made = []
        for _ in range(30):
            attempts._drawn = None
            attempts._from_bytes(attempts._random.randbytes(_BYTES))
            made.append(attempts._drawn)
        return made

    by_this_version = examples()
    assert sum(example is None for example in by_this_version) <= 3
    request.getfixturevalue("as_before_6_170")
    assert examples() == by_this_version
