"""torchscale 4d1e0e8: DilatedAttention where a score is 0, and where a segment is short.

pip install git+https://github.com/microsoft/torchscale
python examples/defects/torchscale_branches.py

Only the library and torch, with attention as flash-attn defines it where there is none. Exit status 1 if anything
differs.
"""

import sys
from types import SimpleNamespace

import torch
from torchscale.component import multihead_attention
from torchscale.component.dilated_attention import DilatedAttention


def attention(q, k, v, dropout=0.0, bias=None, softmax_scale=None, is_causal=False):
    """(out, lse), the causal mask left out."""
    scores = torch.einsum("bihd,bjhd->bhij", q, k) * (softmax_scale or q.shape[-1] ** -0.5)
    return torch.einsum("bhij,bjhd->bihd", scores.softmax(-1), v), scores.logsumexp(-1)


multihead_attention.flash_attn_func = multihead_attention.flash_attn_func or attention


def dilated(query, key, value, segment_lengths):
    """One head of one dimension, dilation rates of 1, without the layer's projections."""
    options = SimpleNamespace(
        flash_attention=True,
        segment_length=segment_lengths,
        dilated_ratio=[1] * len(segment_lengths),
        seq_parallel=False,
        multiway=False,
        xpos_rel_pos=False,
        layernorm_eps=1e-5,
    )
    layer = DilatedAttention(options, 1, 1, self_attention=True)
    layer.q_proj = layer.k_proj = layer.v_proj = layer.out_proj = torch.nn.Identity()
    query, key, value = (torch.tensor(rows).view(1, -1, 1) for rows in (query, key, value))
    return layer(query, key, value)[0].flatten().tolist()


def shown(rows):
    return "(" + ", ".join(f"{x:.4f}" for x in rows) + ")"


def main() -> int:
    right = True
    mixture = (5 / 3, 7 / 3)  # of a query that sees itself in one branch and both rows in the other, all scores alike
    for name, query in (("a score of 0.000001", 1e-6), ("a score of 0", 0.0)):
        got = dilated([query] * 2, [1.0] * 2, [1.0, 3.0], [1, 2])
        print(f"{name}, segments 1 and 2, values 1 and 3: expected {shown(mixture)}, got {shown(got)}")
        right &= torch.allclose(torch.tensor(got), torch.tensor(mixture), atol=1e-4)
    got = dilated([0.0] * 3, [1.0] * 3, [1.0] * 3, [2])
    print(f"a segment of 2 and 3 rows, all values 1: expected {shown([1.0] * 3)}, got {shown(got)}")
    return int(not (right and got == [1.0] * 3))


if __name__ == "__main__":
    sys.exit(main())
