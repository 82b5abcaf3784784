"""Whose kernels of packed sequences are chosen, without a GPU."""

from typing import Any
from unittest.mock import patch

import pytest
import torch

from attention_gate.impls.fused import flash_packed, packed_kernels, packed_products, torch_packed
from attention_gate.impls.fused.sequences import Sequences
from tests.impls.test_kernels import made

CALL = Sequences((range(16),), (range(16),), (16,), (16,), None, 0)


def chosen(backend: str, faults: dict[str, str | None], softcap: float | None = None) -> Any:
    """Whose kernels serve on a GPU that has both libraries, of which some are wrong."""
    query = made(1, 16, 2, 64)
    with (
        patch.object(packed_kernels, "_fault", lambda module, *_: faults.get(module.NAME)),
        patch.object(flash_packed, "objection", lambda *_: None),
        patch.object(torch_packed, "objection", lambda *given: "no cap" if given[-1] else None),
    ):
        return packed_kernels._module(query, query, query, CALL, softcap, backend)


def test_the_first_that_is_right_serves() -> None:
    assert chosen("auto", {}) is flash_packed
    assert chosen("auto", {"flash-attn-4": "wrong"}) is torch_packed
    assert chosen("flash-attn-4", {}) is flash_packed


def test_where_none_is_right_plain_products_serve_unless_one_was_chosen() -> None:
    """A rank that raised in the middle of a pass would leave the others waiting."""
    wrong: dict[str, str | None] = {"flash-attn-4": "wrong", "FlashAttention-2": "wrong too"}
    assert chosen("auto", wrong) is packed_products
    assert chosen("auto", {"flash-attn-4": "wrong"}, softcap=2.0) is packed_products
    with pytest.raises(RuntimeError, match="flash-attn-4 is chosen and does not serve: wrong"):
        chosen("flash-attn-4", wrong)


@pytest.mark.parametrize("softcap", [None, 2.0])
def test_want_of_memory_is_no_fault_of_a_kernel(softcap: float | None) -> None:
    given = (torch_packed, torch.device("cpu"), torch.bfloat16, 64, 64, softcap, 1, False, True, 0)
    with (
        patch.object(packed_kernels, "_largest_error", side_effect=torch.OutOfMemoryError),
        pytest.raises(torch.OutOfMemoryError),
    ):
        packed_kernels._fault.__wrapped__(*given)
    with patch.object(packed_kernels, "_largest_error", side_effect=ValueError("no")):
        assert packed_kernels._fault.__wrapped__(*given) == "FlashAttention-2 does not run here: ValueError: no"
