"""Branches, selected positions and head offsets: worked examples, and what is refused in which words."""

import numpy as np
import pytest

from attention_gate import reference
from attention_gate.reference import Branch, branches

NUMPY_TRUE = f"{np.True_!r} ({type(np.True_).__name__})"
"""numpy 2 says `np.True_ (bool)`, numpy 1 `True (bool_)`."""


def test_branches_pair_lengths_with_rates():
    assert branches([4, 8], (1, 2)) == (Branch(4, 1), Branch(segment_length=8, dilation_rate=2))


@pytest.mark.parametrize("kind", [np.int8, np.uint64, np.int64])
def test_numpy_integers_are_welcome_and_become_python_s(kind):
    (branch,) = branches(np.array([4], dtype=kind), [kind(2)])
    assert branch == (4, 2)
    assert [type(number) for number in branch] == [int, int]


@pytest.mark.parametrize(
    ("lengths", "rates", "error", "message"),
    [
        ([4, 0], [1, 2], ValueError, "segment_lengths[1] must be a positive integer, got 0"),
        ([4, 8], [1, -2], ValueError, "dilation_rates[1] must be a positive integer, got -2"),
        ([True, 8], [1, 2], TypeError, "segment_lengths[0] must be a positive integer, got True (bool)"),
        ([4], [np.True_], TypeError, f"dilation_rates[0] must be a positive integer, got {NUMPY_TRUE}"),
        ([4.0], [1], TypeError, "segment_lengths[0] must be a positive integer, got 4.0 (float)"),
        (["4"], [1], TypeError, "segment_lengths[0] must be a positive integer, got '4' (str)"),
        ([None], [1], TypeError, "segment_lengths[0] must be a positive integer, got None (NoneType)"),
        (["ab", 3], [1, 2], TypeError, "segment_lengths[0] must be a positive integer, got 'ab' (str)"),
        ([[4], 3], [1, 2], TypeError, "segment_lengths[0] must be a positive integer, got [4] (list)"),
        (4, [1], TypeError, "segment_lengths must be a sequence of positive integers, such as [4, 8], got 4"),
        ([4], "1", TypeError, "dilation_rates must be a sequence of positive integers, such as [4, 8], got '1'"),
        ({4}, [1], TypeError, "segment_lengths must be a sequence of positive integers, such as [4, 8], got {4}"),
        (
            np.array(4),
            [1],
            TypeError,
            "segment_lengths must be a sequence of positive integers, such as [4, 8], got array(4)",
        ),
        ([], [], ValueError, "segment_lengths must hold at least one positive integer, got []"),
        (
            [4, 8],
            [1],
            ValueError,
            "segment_lengths and dilation_rates must have the same count, one of each per branch: "
            "got 2, [4, 8], and 1, [1]",
        ),
    ],
)
def test_what_is_no_schedule_is_refused(lengths, rates, error, message):
    with pytest.raises(error) as caught:
        branches(lengths, rates)
    assert str(caught.value) == message


def test_selected():
    assert np.flatnonzero(reference.selected(Branch(5, 2), 0, 12)).tolist() == [0, 2, 4, 5, 7, 9, 10]
    assert np.flatnonzero(reference.selected(Branch(5, 2), 1, 12)).tolist() == [1, 3, 6, 8, 11]
    assert np.flatnonzero(reference.selected(Branch(3, 5), 4, 12)).tolist() == []
    assert np.flatnonzero(reference.selected(Branch(99, 5), 4, 12)).tolist() == [4, 9]
    assert reference.selected(Branch(5, 2), 0, 0).tolist() == []


def test_lengths_and_rates_of_any_size():
    """Beyond 64 bits too: longer than every sequence is one segment, and such a rate selects one position."""
    huge = 10**30
    M = reference.multiplicity(4, 3, branches([huge, huge, 2], [1, huge, huge]))
    assert M[0].tolist() == [[3, 1, 1, 1], [1, 1, 1, 1], [1, 1, 2, 1], [1, 1, 1, 1]]
    assert M[2].tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [1, 1, 2, 1], [1, 1, 1, 1]]


def test_head_offsets():
    pairs = branches([6, 8, 9], [2, 3, 5])
    assert reference.head_offsets(5, pairs).tolist() == [[0, 1, 0, 1, 0], [0, 1, 2, 0, 1], [0, 1, 2, 3, 4]]
    assert reference.head_offsets(5, pairs, "torchscale").tolist() == [
        [0, 0, 0, 1, 1],
        [0, 0, 1, 1, 2],
        [0, 1, 2, 3, 4],
    ]
    assert reference.head_offsets(5, pairs, "grouped-mean").tolist() == [
        [0, 0, -1, -1, -1],
        [-1, -1, 1, 1, -1],
        [-1, -1, -1, -1, 2],
    ]
    assert reference.head_offsets(2, pairs, "grouped-mean").tolist() == [[0, -1], [-1, 1], [-1, -1]]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((4, 2), ValueError, "dialect must be one of 'longnet', 'torchscale', 'grouped-mean', got 'Longnet'"),
        ((-1, 2), ValueError, "length must be an integer, at least 0, got -1"),
        ((4.0, 2), TypeError, "length must be an integer, at least 0, got 4.0 (float)"),
        ((True, 2), TypeError, "length must be an integer, at least 0, got True (bool)"),
        ((4, 0), ValueError, "heads must be an integer, at least 1, got 0"),
        ((4, "2"), TypeError, "heads must be an integer, at least 1, got '2' (str)"),
        ((4, 2, "longnet"), TypeError, "is_causal must be True or False, got 'longnet'"),
        ((4, 2, 1), TypeError, "is_causal must be True or False, got 1"),
    ],
)
@pytest.mark.parametrize("function", [reference.multiplicity, reference.branch_masks])
def test_what_has_no_masks_is_refused(function, arguments, error, message):
    length, heads, *is_causal = arguments
    with pytest.raises(error) as caught:
        function(
            length, heads, branches([4], [1]), *is_causal, dialect="Longnet" if "dialect" in message else "longnet"
        )
    assert str(caught.value) == message
