"""torch on CUDA: scaled_dot_product_attention's backward pass through cuDNN, where keys end in the middle of a tile.

python examples/defects/torch_cudnn_padding.py

Only torch. Scores are about -12, in float16. With 64 keys, or 192, the gradient of query is NaN; with other numbers of
keys it is right. Prints the error of each beside the plain kernel; exit status 1 if one is not a number.
"""

import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def gradient(inputs, upstream, backend):
    """The gradient of query."""
    with sdpa_kernel(backend):
        out = F.scaled_dot_product_attention(*inputs, scale=1.0)
    return torch.autograd.grad(out, inputs[0], upstream)[0].float()


def main():
    if not torch.cuda.is_available():
        sys.exit("there is no GPU")
    torch.manual_seed(0)
    errors = []
    for keys in (56, 64, 72, 128, 192, 256):
        query, key, value, upstream = (
            0.3 * torch.randn((1, 1, rows, 64), device="cuda") for rows in (32, keys, keys, 32)
        )
        query[..., 0], key[..., 0] = -3.0, 4.0
        inputs = [tensor.half().requires_grad_() for tensor in (query, key, value + 3.0)]
        given = upstream.half() + 1.0
        expected = gradient(inputs, given, SDPBackend.MATH)
        found = gradient(inputs, given, SDPBackend.CUDNN_ATTENTION)
        errors.append(((found - expected).norm() / expected.norm()).item())
        print(f"{keys} keys: relative error {errors[-1]:.2g}, {int(found.isnan().sum())} of {found.numel()} are NaN")
    return int(any(error != error for error in errors))


if __name__ == "__main__":
    sys.exit(main())
