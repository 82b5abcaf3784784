"""The stand-in for flash-attn computes what flash-attn is documented to compute, forward and backward."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import flash_attn_stand_in as stand_in


def exact(
    q: Tensor, k: Tensor, v: Tensor, dout: Tensor, seen: Tensor
) -> tuple[Tensor, Tensor, tuple[Tensor | None, ...]]:
    """The output (0 in a row that sees nothing), the scores and the gradients, by autograd in float64."""
    inputs = [t.double().requires_grad_() for t in (q, k, v)]
    repeated = [t.repeat_interleave(q.shape[2] // t.shape[2], dim=2) for t in inputs]
    scores = torch.einsum("bihd,bjhd->bhij", repeated[0], repeated[1]) * 0.3
    empty = ~seen.any(-1, keepdim=True)
    weights = scores.masked_fill(~(seen | empty), float("-inf")).softmax(-1).masked_fill(empty, 0.0)
    out = torch.einsum("bhij,bjhd->bihd", weights, repeated[2])
    out.backward(dout.double())
    return out.detach(), scores.detach().masked_fill(~seen, float("-inf")), tuple(t.grad for t in inputs)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("rows", "keys", "kv_heads"), [(4, 4, 4), (2, 5, 2), (3, 6, 1)])
def test_forward_and_backward_are_those_of_autograd(causal: bool, rows: int, keys: int, kv_heads: int) -> None:
    torch.manual_seed(0)
    shapes = ((2, rows, 4, 8), (2, keys, kv_heads, 8), (2, keys, kv_heads, 8), (2, rows, 4, 8))
    q, k, v, dout = (torch.randn(shape).half() for shape in shapes)
    out, lse, _, _ = stand_in._flash_attn_forward(q, k, v, 0.0, 0.3, causal)
    grads = [torch.empty_like(t) for t in (q, k, v)]
    stand_in._flash_attn_backward(dout, q, k, v, out, lse, *grads, 0.0, 0.3, causal)

    seen = torch.ones(rows, keys, dtype=torch.bool)
    if causal:  # aligned to the lower right corner
        seen = seen.tril(keys - rows)
    right, scores, right_grads = exact(q, k, v, dout, seen)
    torch.testing.assert_close(out.double(), right, atol=4e-3, rtol=0)
    torch.testing.assert_close(lse.double(), scores.logsumexp(-1), atol=1e-5, rtol=0)
    for grad, right_grad in zip(grads, right_grads, strict=True):
        torch.testing.assert_close(grad.double(), right_grad, atol=2e-2, rtol=0)


def test_what_flash_attn_does_not_take_is_refused() -> None:
    x = torch.zeros(1, 1, 1, 1)
    with pytest.raises(TypeError, match="float16"):
        stand_in._flash_attn_forward(x, x, x, 0.0, 1.0, False)
    with pytest.raises(NotImplementedError, match="dropout"):
        stand_in._flash_attn_forward(x.half(), x.half(), x.half(), 0.1, 1.0, False)


@pytest.mark.parametrize("window", [(1, 0), (0, 0), (-1, 1), (2, -1), (1, 2)])
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("rows", "keys"), [(4, 4), (2, 5), (5, 3)])
def test_windows_are_around_positions_aligned_to_the_lower_right_corner(
    window: tuple[int, int], causal: bool, rows: int, keys: int
) -> None:
    torch.manual_seed(1)
    q, dout = (torch.randn(1, rows, 2, 8).half() for _ in range(2))
    k, v = (torch.randn(1, keys, 2, 8).half() for _ in range(2))
    out, lse, _, _ = stand_in._flash_attn_forward(q, k, v, 0.0, 0.3, causal, *window)
    grads = [torch.full_like(t, float("nan")) for t in (q, k, v)]
    stand_in._flash_attn_backward(dout, q, k, v, out, lse, *grads, 0.0, 0.3, causal, *window)
    seen = torch.zeros(rows, keys, dtype=torch.bool)
    for row in range(rows):
        at = row + keys - rows
        first = 0 if window[0] < 0 else max(0, at - window[0])
        last = at if causal else keys - 1 if window[1] < 0 else at + window[1]
        seen[row, first : max(last + 1, 0)] = True
    right, scores, right_grads = exact(q, k, v, dout, seen)
    right_lse = scores.logsumexp(-1)
    torch.testing.assert_close(out.double(), right, atol=4e-3, rtol=0)
    torch.testing.assert_close(lse.double(), right_lse.masked_fill(right_lse.isneginf(), torch.inf), atol=1e-5, rtol=0)
    for grad, right_grad in zip(grads, right_grads, strict=True):
        torch.testing.assert_close(grad.double(), right_grad, atol=2e-2, rtol=0)
