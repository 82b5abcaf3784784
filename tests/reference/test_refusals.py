"""Arrays that do not fit are refused in words that name the argument, what it was and what is allowed."""

import numpy as np
import pytest

from attention_gate import reference

QUERY, KEY, VALUE, GRAD_OUT = (np.ones(shape) for shape in ((2, 7, 4, 3), (2, 7, 2, 3), (2, 7, 2, 5), (2, 7, 4, 5)))
SCHEDULE = {"segment_lengths": [3, 7], "dilation_rates": [1, 2]}


def ones(*shape):
    return np.ones(shape)


ARRAYS = [
    ("query", ones(7, 4, 3), ValueError, "query must have the shape (batch, length, heads, head_dim), got (7, 4, 3)"),
    (
        "key",
        ones(1, 2, 7, 2, 3),
        ValueError,
        "key must have the shape (batch, length, kv_heads, head_dim), got (1, 2, 7, 2, 3)",
    ),
    ("value", 3.0, ValueError, "value must have the shape (batch, length, kv_heads, value_dim), got ()"),
    ("query", QUERY + 0j, TypeError, "query must hold real numbers, which become float64, got dtype complex128"),
    ("key", KEY.astype(object), TypeError, "key must hold real numbers, which become float64, got dtype object"),
    ("value", VALUE.astype(str), TypeError, "value must hold real numbers, which become float64, got dtype <U32"),
    (
        "query",
        ones(2, 7, 0, 3),
        ValueError,
        "query must have at least one of heads and of head_dim, got shape (2, 7, 0, 3)",
    ),
    (
        "key",
        ones(2, 7, 2, 0),
        ValueError,
        "key must have at least one of kv_heads and of head_dim, got shape (2, 7, 2, 0)",
    ),
    (
        "key",
        ones(1, 7, 2, 3),
        ValueError,
        "key must share (batch, head_dim) with query, got key of shape (1, 7, 2, 3) beside query of shape (2, 7, 4, 3)",
    ),
    (
        "key",
        ones(2, 7, 2, 4),
        ValueError,
        "key must share (batch, head_dim) with query, got key of shape (2, 7, 2, 4) beside query of shape (2, 7, 4, 3)",
    ),
    (
        "key",
        ones(2, 7, 3, 3),
        ValueError,
        "the heads of query must be a multiple of the kv_heads of key, "
        "got 4 heads (query of shape (2, 7, 4, 3)) and 3 kv_heads (key of shape (2, 7, 3, 3))",
    ),
    (
        "value",
        ones(2, 7, 4, 5),
        ValueError,
        "value must share (batch, length, kv_heads) with key, "
        "got value of shape (2, 7, 4, 5) beside key of shape (2, 7, 2, 3)",
    ),
    (
        "value",
        ones(2, 6, 2, 5),
        ValueError,
        "value must share (batch, length, kv_heads) with key, "
        "got value of shape (2, 6, 2, 5) beside key of shape (2, 7, 2, 3)",
    ),
    ("scale", "1", TypeError, "scale must be a real number, or None for 1 / sqrt(head_dim), got '1'"),
    ("scale", True, TypeError, "scale must be a real number, or None for 1 / sqrt(head_dim), got True"),
    ("scale", 1j, TypeError, "scale must be a real number, or None for 1 / sqrt(head_dim), got 1j"),
]

GRADIENTS = [
    (
        "grad_out",
        ones(2, 7, 4),
        ValueError,
        "grad_out must have the shape (batch, length, heads, value_dim), got (2, 7, 4)",
    ),
    (
        "grad_out",
        GRAD_OUT * 1j,
        TypeError,
        "grad_out must hold real numbers, which become float64, got dtype complex128",
    ),
    (
        "grad_out",
        ones(2, 7, 2, 5),
        ValueError,
        "grad_out must share (batch, length, heads) with query, "
        "got grad_out of shape (2, 7, 2, 5) beside query of shape (2, 7, 4, 3)",
    ),
    (
        "grad_out",
        ones(2, 7, 4, 3),
        ValueError,
        "grad_out must share (value_dim) with value, "
        "got grad_out of shape (2, 7, 4, 3) beside value of shape (2, 7, 2, 5)",
    ),
]

ONE_SEQUENCE = [
    ("dialect", "longNet", ValueError, "dialect must be one of 'longnet', 'torchscale', 'grouped-mean', got 'longNet'"),
    ("dialect", None, ValueError, "dialect must be one of 'longnet', 'torchscale', 'grouped-mean', got None"),
    ("is_causal", 1, TypeError, "is_causal must be True or False, got 1"),
    ("dilation_rates", [1, 0], ValueError, "dilation_rates[1] must be a positive integer, got 0"),
]

MULTIPLICITY = [
    (
        "multiplicity",
        np.ones((7, 7)),
        TypeError,
        "multiplicity must hold non-negative integers or bool, got dtype float64",
    ),
    (
        "multiplicity",
        [[[1, 2, 0, 1, 1, -3, 1]]],
        ValueError,
        "multiplicity must hold non-negative integers or bool, got -3",
    ),
    (
        "multiplicity",
        np.ones((2, 7, 7), dtype=int),
        ValueError,
        "multiplicity must broadcast to (heads, queries, keys) = (4, 7, 7), got shape (2, 7, 7)",
    ),
    (
        "multiplicity",
        np.ones((1, 4, 7, 7), dtype=int),
        ValueError,
        "multiplicity must broadcast to (heads, queries, keys) = (4, 7, 7), got shape (1, 4, 7, 7)",
    ),
]

FUNCTIONS = {
    "weights": (reference.weights, {"query": QUERY, "key": KEY, "multiplicity": True}),
    "attention": (reference.attention, {"query": QUERY, "key": KEY, "value": VALUE, "multiplicity": True}),
    "attention_gradients": (
        reference.attention_gradients,
        {"query": QUERY, "key": KEY, "value": VALUE, "multiplicity": True, "grad_out": GRAD_OUT},
    ),
    "dilated_attention": (reference.dilated_attention, {"query": QUERY, "key": KEY, "value": VALUE, **SCHEDULE}),
    "dilated_attention_gradients": (
        reference.dilated_attention_gradients,
        {"query": QUERY, "key": KEY, "value": VALUE, "grad_out": GRAD_OUT, **SCHEDULE},
    ),
    "dilated_attention_gradients, torchscale": (
        reference.dilated_attention_gradients,
        {"query": QUERY, "key": KEY, "value": VALUE, "grad_out": GRAD_OUT, "dialect": "torchscale", **SCHEDULE},
    ),
}


OPTIONS = {"scale", "dialect", "is_causal"}


def refusals():
    found = []
    for name, (_, arguments) in FUNCTIONS.items():
        others = ONE_SEQUENCE if "segment_lengths" in arguments else MULTIPLICITY
        for refusal in ARRAYS + GRADIENTS + others:
            if refusal[0] in arguments or refusal[0] in OPTIONS:
                found.append(pytest.param(name, *refusal, id=f"{name}: {refusal[3]}"))
    return found


@pytest.mark.parametrize(("function", "argument", "bad", "error", "message"), refusals())
def test_what_does_not_fit_is_refused(function, argument, bad, error, message):
    call, arguments = FUNCTIONS[function]
    call(**arguments)
    with pytest.raises(error) as caught:
        call(**{**arguments, argument: bad})
    assert str(caught.value) == message


def test_every_function_that_takes_arrays_is_tried():
    of_arrays = {name for name in reference.__all__ if "attention" in name or name == "weights"}
    of_arrays.remove("sampled_attention")  # which reads rows; test_sampled.py has what it refuses
    assert of_arrays == {name.split(",")[0] for name in FUNCTIONS}
