"""Cases on which rounding is measured: large, well conditioned, and cut into many equal blocks."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.styles import ONE_SIDED
from attention_gate.verify.target.choices import LEAST_BLOCKS
from attention_gate.verify.target.target import Target

HALF_TYPES = ("bfloat16", "float16")

#: Rows of the sequence, at least; times `_WIDTH` they are the elements that a root-mean-square is taken over.
_ROWS = 96
_WIDTH = 32


def measuring_cases(target: Target, world_sizes: Sequence[int]) -> st.SearchStrategy[Case] | None:
    """Cases in the half types over the most ranks; None if the target supports none of them.

    One dense branch, no mask: all of an implementation's blocks are equally large. In half of the cases the branch is
    there two to four times, which multiplies the blocks of those who take branches one by one.
    """
    ranks = max(world_sizes)
    dtypes = [dtype for dtype in HALF_TYPES if dtype in target.dtypes]
    if blocks(ranks, target) < LEAST_BLOCKS or ranks < target.least_ranks or False not in target.masks or not dtypes:
        return None
    return _cases(target, ranks, tuple(dtypes))


def blocks(ranks: int, target: Target) -> int:
    """The number of blocks that a rank of so many merges."""
    return ranks // target.heads_shared


@st.composite
def _cases(draw: st.DrawFn, target: Target, ranks: int, dtypes: tuple[str, ...]) -> Case:
    least = -(-_ROWS // ranks)
    length = ranks * draw(st.integers(least, least + 8))
    count = max(1, draw(st.integers(0, 5)) - 1) if target.branches == "any" else 1
    heads = draw(st.sampled_from([1, 2, 4]))
    return Case(
        world_size=ranks,
        length=length,
        pass_length=draw(st.booleans()),
        batch=4 // heads,
        heads=heads,
        kv_heads=heads,
        head_dim=_WIDTH // 4,
        value_dim=_WIDTH // 4,
        segment_lengths=(length,) * count,
        dilation_rates=(1,) * count,
        dtype=draw(st.sampled_from(dtypes)),
        data=ONE_SIDED,
        requires_grad="qkv" if target.gradients else "",
        seed=draw(st.integers(0, 9999)),
    )
