"""Strategies that draw the same value from the same bytes, whichever version of Hypothesis is installed.

Examples are made from bytes that the seed decides. Before Hypothesis 6.170, st.integers(3, 9) reads 3 bits and takes
them if they are between 3 and 9: 8 and 9 never occur. st.integers(2, 3) reads one bit, which is neither 2 nor 3: bytes
run out, and the example is dropped without a word. The strategies here made the same examples of every check under
6.127, 6.140, 6.155, 6.165, 6.168.3 and 6.170.17.

Strategies for whole numbers are made once and kept. Hypothesis validates each new strategy, and that was half of the
time of drawing an example.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any, TypeVar

from hypothesis import strategies as st

Some = TypeVar("Some")


@lru_cache(maxsize=4096)
def integers(least: int, most: int) -> st.SearchStrategy[int]:
    """Whole numbers from least to most, each as often as the others; the simplest is the least."""
    return st.integers(0, most - least).map(lambda more: least + more)


def drawn_from(draw: st.DrawFn, values: Sequence[Some]) -> Some:
    """Draw one of the values, each as often as the others; the simplest is the first.

    As st.sampled_from draws it, without a new strategy for each choice of values.
    """
    return values[draw(integers(0, len(values) - 1))]


def together(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A value of each strategy, by name, in the order given; Hypothesis's fixed_dictionaries draws an order as well."""
    return st.tuples(*parts.values()).map(lambda values: dict(zip(parts, values, strict=True)))
