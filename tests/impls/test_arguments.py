"""Arguments that no message between processes can carry, and how a message shows the value that it objects to."""

import pytest
import torch

from attention_gate.impls.given_values import shown
from tests.impls.cases import IMPLEMENTATIONS, attend


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("name", ["query", "key", "value"])
def test_sparse_tensors_are_refused(implementation: str, name: str) -> None:
    tensors = dict.fromkeys(("query", "key", "value"), torch.ones(1, 2, 1, 1))
    tensors[name] = tensors[name].to_sparse()
    with pytest.raises(ValueError, match=f"{name}: layout torch.sparse_coo is not torch.strided"):
        attend(implementation)(**tensors, segment_lengths=[2], dilation_rates=[1])


@pytest.mark.parametrize("length", [3, 79, 80])
def test_what_fits_is_shown_as_it_was_written(length: int) -> None:
    text = "x" * (length - 2)
    assert shown(text) == repr(text)
    assert len(shown(text)) == length


@pytest.mark.parametrize("length", [81, 82, 5000])
def test_what_is_longer_is_cut_short_to_what_fits(length: int) -> None:
    text = "x" * (length - 2)
    assert shown(text) == "'" + "x" * 76 + "..."
    assert len(shown(text)) == 80
