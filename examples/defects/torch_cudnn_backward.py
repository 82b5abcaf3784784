"""torch on CUDA: scaled_dot_product_attention's backward pass through cuDNN, of an upstream gradient in other strides.

python examples/defects/torch_cudnn_backward.py

Only torch. The same gradient is asked for three times; the upstream gradient has the same numbers each time, the second
time in other strides. Prints the error of each beside the plain kernel; exit status 1 if one is beyond rounding.
"""

import sys

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel


def gradient(inputs, upstream, backend):
    """The gradient of query."""
    with sdpa_kernel(backend):
        out = F.scaled_dot_product_attention(*inputs)
    return torch.autograd.grad(out, inputs[0], upstream)[0].float()


def main():
    if not torch.cuda.is_available():
        sys.exit("there is no GPU")
    torch.manual_seed(0)
    shape = 1, 4, 256, 64
    inputs = [torch.randn(shape, dtype=torch.bfloat16, device="cuda", requires_grad=True) for _ in range(3)]
    upstream = torch.randn(shape, dtype=torch.bfloat16, device="cuda")
    rows_first = upstream.transpose(1, 2).contiguous().transpose(1, 2)
    expected = gradient(inputs, upstream, SDPBackend.MATH)
    errors = []
    for what, given in (("contiguous", upstream), ("rows before heads", rows_first), ("contiguous", upstream)):
        found = gradient(inputs, given, SDPBackend.CUDNN_ATTENTION)
        errors.append(((found - expected).norm() / expected.norm()).item())
        print(f"upstream gradient {what}, strides {given.stride()}: relative error {errors[-1]:.2g}")
    return int(max(errors) > 0.02)


if __name__ == "__main__":
    sys.exit(main())
