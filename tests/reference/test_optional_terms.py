"""Documents, windows, masks, caps, slopes, sinks, other lengths: against loops, autograd, differences and the table."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from attention_gate import reference
from tests.reference import optional
from tests.reference.cases import assert_close, reproducible
from tests.reference.optional import Case
from tests.reference.test_against_differences import TRUNCATION, central_differences

NAMED = {
    "packed documents, one of length zero, rows left over": Case(9, 9, documents=(3, 0, 4), is_causal=True),
    "documents cut by dilated branches": Case(8, 8, ((4, 1), (8, 2)), documents=(5, 3), kv_heads=2),
    "a window with a sink near the scores": Case(7, 7, window=(2, 1), sink=0.0, kv_heads=2, group=2),
    "own position alone": Case(5, 5, window=(0, 0)),
    "fewer queries than keys": Case(2, 6, is_causal=True, slopes=True),
    "more queries than keys": Case(6, 3, is_causal=True, sink=0.0),
    "documents with other numbers of queries": Case(
        5, 7, documents=(3, 0, 4), query_documents=(1, 2, 2), is_causal=True, slopes=True, softcap=2.0
    ),
    "everything": Case(6, 6, ((3, 1), (6, 2)), (4, 2), None, (3, 0), True, True, 2.0, True, 0.5, 2, 2),
    "no keys": Case(3, 0, sink=1.0),
}


def check(case):
    query, key, value, grad_out = case.arrays()
    _, sink = case.per_head()
    tensors = [torch.tensor(array, requires_grad=True) for array in (query, key, value)]
    logits = None if sink is None else torch.tensor(sink, requires_grad=True)
    expected, expected_lse = optional.attend(case, *tensors, logits)
    out, lse = reference.dilated_attention(query, key, value, **case.options())
    assert_close(out, expected.detach().numpy(), 1e-13, "out")
    assert_close(lse, expected_lse.detach().numpy(), 1e-12, "lse")
    gradients = reference.dilated_attention_gradients(query, key, value, grad_out, **case.options())
    assert gradients._fields == ("query", "key", "value", "sink")[: len(gradients)]
    assert len(gradients) == (3 if sink is None else 4)
    wanted = [*tensors, *([] if logits is None else [logits])]
    if expected.requires_grad:
        torch.autograd.backward(expected, torch.tensor(grad_out))
    for field, tensor in zip(gradients._fields, wanted, strict=True):
        grad = np.zeros(tensor.shape) if tensor.grad is None else tensor.grad.numpy()
        # A sink of -inf has no gradient; autograd's softmax gives 0 for it as well.
        assert_close(getattr(gradients, field), grad, 1e-12, f"gradient of {field}")


@pytest.mark.parametrize("name", NAMED)
def test_the_named_cases(name):
    check(NAMED[name])


@settings(reproducible, max_examples=150)
@given(optional.cases())
def test_any_combination(case):
    check(case)


SMOOTH = [name for name in NAMED if name != "no keys"]


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_against_central_differences(name):
    """Those of the sink too, with torch nowhere in sight."""
    case = NAMED[name]
    *inputs, grad_out = case.arrays()
    options = case.options()
    sink = options.pop("sink")
    gradients = reference.dilated_attention_gradients(*inputs, grad_out, **options, sink=sink)

    def loss(query, key, value, *sinks):
        given_sink = sinks[0] if sinks else None
        return (reference.dilated_attention(query, key, value, **options, sink=given_sink)[0] * grad_out).sum()

    arrays = [*inputs, *([] if sink is None else [sink])]
    for field, expected in zip(gradients._fields, central_differences(loss, arrays), strict=True):
        assert_close(getattr(gradients, field), expected, TRUNCATION, f"gradient of {field}")


def attend(case):
    return reference.dilated_attention(*case.arrays()[:3], **case.options())


def test_a_row_that_sees_nothing_is_zero_and_its_lse_the_sink():
    out, lse = attend(Case(6, 3, is_causal=True))
    assert (out[:, :3] == 0).all()
    assert (lse[..., :3] == -np.inf).all()
    case = Case(6, 3, is_causal=True, sink=0.0)
    out, lse = attend(case)
    assert (out[:, :3] == 0).all()
    np.testing.assert_array_equal(lse[..., :3], np.broadcast_to(case.per_head()[1][:, None], (2, 1, 3)))


def test_a_sink_of_minus_infinity_is_no_sink():
    plain, with_sink = Case(5, 5, is_causal=True), Case(5, 5, is_causal=True, sink=-math.inf)
    for ours, other in zip(attend(plain), attend(with_sink), strict=True):
        np.testing.assert_array_equal(ours, other)


def test_a_sink_far_above_the_scores_takes_all():
    out, lse = attend(Case(5, 5, sink=1e4))
    assert (out == 0).all()
    assert np.isfinite(lse).all()


def test_windows_are_those_of_the_table():
    whole = reference.multiplicity(6, 1, reference.branches([6], [1]))
    assert (whole == 1).all()
    branches = reference.branches([6], [1])
    own = reference.multiplicity(6, 1, branches, window=(0, 0))[0]
    np.testing.assert_array_equal(own, np.eye(6))
    causal = reference.multiplicity(6, 1, branches, True)
    np.testing.assert_array_equal(reference.multiplicity(6, 1, branches, window=(None, 0)), causal)
    np.testing.assert_array_equal(reference.multiplicity(6, 1, branches, True, window=(None, 3)), causal)
    two_back = reference.multiplicity(6, 1, branches, window=(2, 0))[0].sum(axis=1)
    np.testing.assert_array_equal(two_back, [1, 2, 3, 3, 3, 3])  # a window of (2, 0) has three keys


def test_documents_are_blocks_and_rows_after_them_see_and_are_seen_by_nothing():
    M = reference.multiplicity(6, 1, reference.branches([6], [1]), document_lengths=[2, 3])[0]
    np.testing.assert_array_equal(M[:2, :2], 1)
    np.testing.assert_array_equal(M[2:5, 2:5], 1)
    assert M.sum() == 4 + 9


def test_causal_alignment_is_by_the_last_position_of_each_document():
    M = reference.multiplicity(
        7, 1, reference.branches([7], [1]), True, query_length=3, document_lengths=[3, 4], query_lengths=[1, 2]
    )[0]
    np.testing.assert_array_equal(M, [[1, 1, 1, 0, 0, 0, 0], [0, 0, 0, 1, 1, 1, 0], [0, 0, 0, 1, 1, 1, 1]])


def test_dense_attention_has_no_segments_where_queries_are_more_than_keys():
    assert (reference.multiplicity(3, 1, reference.branches([3], [1]), query_length=6) == 1).all()


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"window": (-1, 0)}, ValueError, "window must hold integers of at least 0, or None for no bound, got (-1, 0)"),
        ({"window": (True, 0)}, TypeError, "window must hold integers of at least 0"),
        ({"window": 3}, TypeError, "window must be a pair (left, right), got 3"),
        ({"document_lengths": [3, -1]}, ValueError, "document_lengths must hold integers of at least 0, got -1"),
        ({"document_lengths": [3, 5]}, ValueError, "document_lengths [3, 5] add up to 8 rows, and there are 7 keys"),
        ({"document_lengths": "34"}, TypeError, "document_lengths must be a sequence"),
        ({"query_lengths": [7]}, ValueError, "query_lengths [7] are given without document_lengths"),
        ({"document_lengths": [3, 4], "query_lengths": [7]}, ValueError, "the same count, one of each per document"),
        ({"softcap": 0.0}, ValueError, "softcap must be a finite number above 0, or None, got 0.0"),
        ({"softcap": math.inf}, ValueError, "softcap must be a finite number above 0"),
        ({"softcap": True}, TypeError, "softcap must be a finite number above 0"),
        ({"sink": [0.0]}, ValueError, "sink must have the shape (heads,) = (2,), got (1,)"),
        ({"slopes": ["a", "b"]}, TypeError, "slopes must hold real numbers"),
        ({"sink": [0.0, 0.0], "dialect": "torchscale"}, ValueError, "only 'longnet' has one"),
        ({"is_casual": True}, TypeError, "there is no option 'is_casual'; the options are is_causal, scale"),
        ({"mask": lambda h, x, j: x - j}, TypeError, "mask must return booleans"),
    ],
)
def test_what_is_no_option_is_refused_in_words(options, error, words):
    query, key, value = (np.ones((1, 7, 2, 3)) for _ in range(3))
    with pytest.raises(error) as refused:
        reference.dilated_attention(query, key, value, segment_lengths=[7], dilation_rates=[1], **options)
    assert words in str(refused.value)


def test_other_branches_take_as_many_queries_as_keys():
    query, key, value = np.ones((1, 5, 1, 2)), np.ones((1, 7, 1, 2)), np.ones((1, 7, 1, 2))
    with pytest.raises(ValueError, match="only dense attention takes other numbers"):
        reference.dilated_attention(query, key, value, segment_lengths=[3], dilation_rates=[1])


def test_a_mask_is_not_combined_with_queries_before_the_first_key():
    query, key, value = np.ones((1, 5, 1, 2)), np.ones((1, 3, 1, 2)), np.ones((1, 3, 1, 2))
    with pytest.raises(ValueError, match="at most as many queries as keys"):
        reference.dilated_attention(
            query, key, value, segment_lengths=[3], dilation_rates=[1], mask=optional.every_third_key_is_hidden
        )
