"""What mechanical mutants showed to be untested."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from attention_gate import reference
from attention_gate.impls import collective, robust


def test_nothing_is_causal_unless_it_is_asked_for() -> None:
    source = np.random.default_rng(0)
    query, key, value, grad_out = source.normal(size=(4, 1, 5, 2, 3))
    options = {"segment_lengths": [5, 3], "dilation_rates": [1, 2]}
    for found, asked in (
        (
            reference.dilated_attention(query, key, value, **options),
            reference.dilated_attention(query, key, value, is_causal=False, **options),
        ),
        (
            reference.dilated_attention_gradients(query, key, value, grad_out, **options),
            reference.dilated_attention_gradients(query, key, value, grad_out, is_causal=False, **options),
        ),
    ):
        for one, other in zip(found, asked, strict=True):
            np.testing.assert_array_equal(one, other)
    pairs = reference.branches([5, 3], [1, 2])
    assert reference.branch_masks(5, 2, pairs)[0, 0, 0, 4]
    assert reference.multiplicity(5, 2, pairs)[0, 0, 4] == 1


@pytest.mark.parametrize("implementation", [collective, robust])
def test_no_kv_heads_at_all_are_refused_in_words(implementation) -> None:
    query, none = torch.zeros(1, 3, 2, 4), torch.zeros(1, 3, 0, 4)
    with pytest.raises(ValueError, match="positive multiple of the 0 kv_heads"):
        implementation.attend(query, none, none, segment_lengths=[3], dilation_rates=[1])
