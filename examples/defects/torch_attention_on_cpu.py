"""torch 2.13.0: scaled_dot_product_attention on a CPU, three times against its own definition, written out.

python examples/defects/torch_attention_on_cpu.py

Only torch. Prints what is expected and what comes; exit status 1 if they differ.
"""

import sys

import torch
import torch.nn.functional as F


def defined(query, key, value, is_causal=False, scale=None):
    """softmax(scale q k^T) v."""
    scores = query @ key.mT * (query.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), float("-inf"))
    return scores.softmax(-1) @ value


def tell(what, expected, got):
    print(f"{what}: expected {expected}, got {got}")


def nan_is_hidden():
    """A query all of whose keys are NaN gives 0."""
    query = value = torch.ones(1, 1, 1, 1)
    key = torch.full((1, 1, 1, 1), float("nan"))
    expected, got = defined(query, key, value).item(), F.scaled_dot_product_attention(query, key, value).item()
    tell("NaN as the only key", expected, got)
    return got != got


def scale_of_zero():
    """Under a causal mask the -inf of what is hidden is scaled, too."""
    ones = torch.ones(1, 1, 2, 1)
    expected = defined(ones, ones, ones, is_causal=True, scale=0.0)
    got = F.scaled_dot_product_attention(ones, ones, ones, is_causal=True, scale=0.0)
    tell("scale 0 and a causal mask", expected.flatten().tolist(), got.flatten().tolist())
    return torch.equal(expected, got)


def gradients_in_bfloat16():
    """Summed block by block in bfloat16, so that the error, in units of one rounding to it, grows with the rows."""
    torch.manual_seed(0)
    right = True
    for rows in (32, 768, 3072):
        query, key, value = (torch.randn(1, 2, rows, 8).bfloat16() for _ in range(3))
        upstream = (torch.rand(1, 2, rows, 8) + 0.5).bfloat16()
        exact = value.double().requires_grad_()
        defined(query.double(), key.double(), exact).backward(upstream.double())
        judged = [tensor.clone().requires_grad_() for tensor in (query, key, value)]
        F.scaled_dot_product_attention(*judged).backward(upstream)
        rounding = (exact.grad.bfloat16() - exact.grad).square().mean().sqrt()
        error = ((judged[2].grad - exact.grad).square().mean().sqrt() / rounding).item()
        tell(f"gradient of value in bfloat16, {rows} rows", "an error of 1 to 1.5 roundings", f"{error:.2f}")
        right &= error < 1.5
    return right


if __name__ == "__main__":
    sys.exit(not all([nan_is_hidden(), scale_of_zero(), gradients_in_bfloat16()]))
