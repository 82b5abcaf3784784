"""dilated-attention-pytorch 0.2.0: heads, options and sums. pip install dilated-attention-pytorch

python examples/defects/dilated_attention_pytorch_options.py

Only the library and torch, with a stand-in for xformers where there is none. Exit status 1 if anything
is not as expected.
"""

import sys
from pathlib import Path

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))

import xformers_stand_in

xformers_stand_in.install()

from dilated_attention_pytorch.dilated_attention import DilatedAttention  # noqa: E402


def main() -> int:
    torch.manual_seed(0)
    right = True

    rows = torch.rand(1, 4, 3, 2)
    largest = DilatedAttention([4, 4], [1, 1])(rows, rows, rows).amax((0, 1, 3)).tolist()
    print(f"largest output of each of 3 heads, 2 branches: expected none to be 0, got {[round(x, 2) for x in largest]}")
    right &= min(largest) > 0

    rows = torch.randn(1, 4, 1, 2, dtype=torch.float64)
    heads_first = rows.transpose(1, 2)
    dense = F.scaled_dot_product_attention(heads_first, heads_first, heads_first).sum(2)
    got = DilatedAttention([4], [1])(rows, rows, rows).sum(1)
    print(f"a dense branch, outputs summed over the sequence: expected {shown(dense)}, got {shown(got)}")
    right &= torch.allclose(got, dense)

    for option, values in (("softmax_scale", (0.0, 9.0)), ("attention_dropout", (0.0, 0.9))):
        one, other = (DilatedAttention([4], [1], **{option: value}).train()(rows, rows, rows) for value in values)
        same = torch.equal(one, other)
        print(f"{option} {values[0]} and {values[1]}: expected another output, got {'the same' if same else 'another'}")
        right &= not same
    return int(not right)


def shown(sums: torch.Tensor) -> str:
    return "(" + ", ".join(f"{x:.4f}" for x in sums.flatten().tolist()) + ")"


if __name__ == "__main__":
    sys.exit(main())
