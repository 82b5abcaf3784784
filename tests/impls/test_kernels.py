"""What cuDNN's attention is given, and what it is not asked for; without a GPU."""

from typing import Any
from unittest.mock import Mock, patch

import pytest
import torch

from impls.fused import kernels


class OnGpu(torch.Tensor):
    """A tensor that says it is on a GPU."""

    is_cuda = property(lambda _: True)  # type: ignore[assignment]


def made(*shape: int) -> Any:
    return torch.randn(shape, dtype=torch.bfloat16).as_subclass(OnGpu)


def given(lse: torch.Tensor, grad_out: torch.Tensor, out: torch.Tensor | None = None) -> tuple[Any, ...]:
    """What the backward pass gives to cuDNN, for the same query, key and value."""
    query = made(2, 4, 16, 8)
    with patch.object(kernels, "_CUDNN_BACKWARD", Mock(return_value=(query, query, query))) as cudnn:
        kernels.attend_backward(query, query, query, query if out is None else out, lse, grad_out, False, 1.0)
    (call,) = cudnn.call_args_list
    return call.args


def test_denominators_are_packed() -> None:
    rows_first = torch.randn(2, 16, 4).transpose(1, 2)
    lse = given(rows_first, made(2, 4, 16, 8))[5]
    assert lse.is_contiguous()
    assert torch.equal(lse.squeeze(-1), rows_first)


def test_graphs_are_told_apart_by_how_out_and_the_upstream_gradient_lie() -> None:
    lse, plain, other = torch.randn(2, 4, 16), made(2, 4, 16, 8), made(2, 16, 4, 8).transpose(1, 2)
    lengths = [given(lse, grad_out, out)[11:13] for grad_out in (plain, other) for out in (plain, other)]
    assert len(set(lengths)) == 4
    assert given(lse, plain.clone(), plain.clone())[11:13] == lengths[0]
    for queries, keys in lengths:
        assert -(1 << 63) <= queries < 0  # fits 64 bits, and is nobody's length
        assert keys == 16


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"dtype": torch.float32}, "no fused kernel for torch.float32"),
        ({"head_dim": 136}, "not head_dim 136"),
        ({"value_dim": 12}, "value_dim 12"),
        ({"capability": (7, 5)}, "compute capability 8.0"),
        ({"avoids": "1"}, "TORCH_CUDNN_SDPA_AVOID_RECOMPILE is set"),
        ({"avoids": "0"}, None),
    ],
)
def test_what_fused_kernels_do_not_take(
    changes: dict[str, Any], words: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {"dtype": torch.bfloat16, "head_dim": 64, "value_dim": 64, "capability": (9, 0), "avoids": ""} | changes
    monkeypatch.setenv("TORCH_CUDNN_SDPA_AVOID_RECOMPILE", asked["avoids"])
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: asked["capability"])
    monkeypatch.setattr(torch.backends.cudnn, "is_available", lambda: True)
    objection = kernels.objection.__wrapped__(
        torch.device("cuda", 0), asked["dtype"], asked["head_dim"], asked["value_dim"]
    )
    assert (objection is None) == (words is None)
    assert words is None or words in objection
