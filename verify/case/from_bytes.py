"""Strategies that draw the same value from the same bytes under every version of Hypothesis.

Examples are made from bytes that the seed decides. Versions of Hypothesis differ in what they make of them, and one
defect is silent: up to 6.168.3 integers(3, 9) draws 3 bits and takes them if they are between 3 and 9, so that 8 and 9
never occur, and integers(2, 3) takes one bit and so nothing at all: no example comes of it.
"""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st


def integers(least: int, most: int) -> st.SearchStrategy[int]:
    """Whole numbers from least to most, each as often as the others; the simplest is the least."""
    return st.integers(0, most - least).map(lambda more: least + more)


def together(**parts: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A value of each strategy, by name, in the order given; Hypothesis's fixed_dictionaries draws an order as well."""
    return st.tuples(*parts.values()).map(lambda values: dict(zip(parts, values, strict=True)))
