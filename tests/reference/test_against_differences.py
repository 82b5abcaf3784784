"""Gradients against central differences of the output, every entry of every input, with torch nowhere in sight."""

import numpy as np
import pytest

from attention_gate import reference
from tests.reference.cases import NAMED, assert_close

STEP = 1e-5
TRUNCATION = 1e-7
"""STEP^2 times a third derivative of order 10^2, and twice the rounding of the loss divided by STEP, are both below."""


def central_differences(loss, arrays):
    arrays = [array.copy() for array in arrays]
    for array in arrays:
        gradient = np.empty_like(array)
        for index in np.ndindex(array.shape):
            kept = array[index]
            array[index] = kept + STEP
            above = loss(*arrays)
            array[index] = kept - STEP
            below = loss(*arrays)
            array[index] = kept
            gradient[index] = (above - below) / (2 * STEP)
        yield gradient


SMOOTH = [name for name, case in NAMED.items() if case.magnitude == 1.0]


@pytest.mark.parametrize("dialect", ["longnet", "grouped-mean"])
@pytest.mark.parametrize("name", SMOOTH)
def test_every_entry(name, dialect):
    case = NAMED[name]
    *inputs, grad_out = case.arrays()
    options = {**case.schedule, "scale": case.scale, "dialect": dialect}
    gradients = reference.dilated_attention_gradients(*inputs, grad_out, **options)

    def loss(*arrays):
        return (reference.dilated_attention(*arrays, **options)[0] * grad_out).sum()

    for field, expected in zip(gradients._fields, central_differences(loss, inputs), strict=True):
        assert_close(getattr(gradients, field), expected, TRUNCATION, f"gradient of {field}")


def test_other_matrices_and_lengths():
    """Counts drawn at random, more keys than queries, four query heads on two kv heads."""
    generator = np.random.default_rng(5)
    shapes = ((2, 3, 4, 2), (2, 5, 2, 2), (2, 5, 2, 3), (2, 3, 4, 3))
    *inputs, grad_out = (generator.normal(size=shape) for shape in shapes)
    M = generator.integers(0, 4, (4, 3, 5))
    gradients = reference.attention_gradients(*inputs, M, grad_out, scale=0.9)

    def loss(*arrays):
        return (reference.attention(*arrays, M, scale=0.9)[0] * grad_out).sum()

    for field, expected in zip(gradients._fields, central_differences(loss, inputs), strict=True):
        assert_close(getattr(gradients, field), expected, TRUNCATION, f"gradient of {field}")


def test_the_differences_themselves():
    gradients = list(central_differences(lambda x, y: (x**2 * y).sum(), [np.array([2.0, -1.5]), np.array([0.5, 3.0])]))
    np.testing.assert_allclose(gradients, [[2.0, -9.0], [4.0, 2.25]], atol=1e-9)


def test_only_the_huge_logits_are_left_out():
    assert set(NAMED) - set(SMOOTH) == {"huge logits"}
