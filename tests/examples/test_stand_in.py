"""The stand-in for flash-attn computes what flash-attn is documented to compute, forward and backward."""

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import flash_attn_stand_in as stand_in


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("rows", "keys", "kv_heads"), [(4, 4, 4), (2, 5, 2), (3, 6, 1)])
def test_forward_and_backward_are_those_of_autograd(causal: bool, rows: int, keys: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    shapes = ((2, rows, 4, 8), (2, keys, kv_heads, 8), (2, keys, kv_heads, 8), (2, rows, 4, 8))
    q, k, v, dout = (torch.randn(shape).half() for shape in shapes)
    out, lse, _, _ = stand_in._flash_attn_forward(q, k, v, 0.0, 0.3, causal)
    grads = [torch.empty_like(t) for t in (q, k, v)]
    stand_in._flash_attn_backward(dout, q, k, v, out, lse, *grads, 0.0, 0.3, causal)

    exact = [t.double().requires_grad_() for t in (q, k, v)]
    repeated = [t.repeat_interleave(4 // t.shape[2], dim=2) for t in exact]
    scores = torch.einsum("bihd,bjhd->bhij", repeated[0], repeated[1]) * 0.3
    if causal:  # aligned to the lower right corner
        scores = scores.masked_fill(torch.ones(rows, keys, dtype=torch.bool).triu(keys - rows + 1), float("-inf"))
    right = torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), repeated[2])
    right.backward(dout.double())
    torch.testing.assert_close(out.double(), right.detach(), atol=4e-3, rtol=0)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1).detach(), atol=1e-5, rtol=0)
    for grad, tensor in zip(grads, exact, strict=True):
        torch.testing.assert_close(grad.double(), tensor.grad, atol=2e-2, rtol=0)


def test_what_flash_attn_does_not_take_is_refused() -> None:
    x = torch.zeros(1, 1, 1, 1)
    with pytest.raises(TypeError, match="float16"):
        stand_in._flash_attn_forward(x, x, x, 0.0, 1.0, False)
    with pytest.raises(NotImplementedError, match="dropout"):
        stand_in._flash_attn_forward(x.half(), x.half(), x.half(), 0.1, 1.0, False)
