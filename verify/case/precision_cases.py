"""Cases on which rounding is measured: large, well conditioned, and cut into many equal blocks."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.from_bytes import drawn_from, integers
from attention_gate.verify.case.styles import ONE_SIDED
from attention_gate.verify.target.choices import LEAST_BLOCKS
from attention_gate.verify.target.target import Target

HALF_TYPES = ("bfloat16", "float16")

#: Ranks, on the simulated network: the more blocks are merged, the further a rounded running sum is from a right one.
RANKS = 8

#: Rows of the sequence, at least: some losses grow with the length and not with the number of blocks. Times `_WIDTH`
#: they are the elements that a root-mean-square is taken over.
_ROWS = 512
_WIDTH = 32

#: Under a causal mask the queries of this last part of the sequence, and the keys of this first part, meet most blocks.
CAUSAL_PART = 4


def measuring_cases(target: Target, world_sizes: Sequence[int]) -> st.SearchStrategy[Case] | None:
    """Cases in the half types over many ranks; None if the target supports none of them.

    One dense branch: all of an implementation's blocks are equally large. There is no mask, unless the target takes
    causal calls only. In half of the cases the branch occurs two to four times, which multiplies the blocks of
    targets that compute branches one by one.
    """
    if why_not_measured(target, world_sizes):
        return None
    return _cases(target, RANKS, half_types(target))


def half_types(target: Target) -> tuple[str, ...]:
    """The half types that the target takes."""
    return tuple(dtype for dtype in HALF_TYPES if dtype in target.dtypes)


def why_not_measured(target: Target, world_sizes: Sequence[int], ranks: int = RANKS) -> str:
    """Why ``ranks`` ranks cannot distinguish rounded running sums from right ones; empty if they can."""
    if not half_types(target):
        return "the target takes no half type"
    if max(world_sizes) == 1:
        return "a world of one rank merges no blocks"
    if target.least_ranks > ranks or blocks(ranks, target) < LEAST_BLOCKS:
        return f"of {ranks} ranks it merges fewer than {LEAST_BLOCKS} blocks"
    return ""


def on_fewer_ranks(case: Case, ranks: int) -> Case:
    """A measuring case, on at most ``ranks`` ranks."""
    if case.data != ONE_SIDED or case.world_size <= ranks:
        return case
    length = case.length // ranks * ranks
    return case.replace(world_size=ranks, length=length, segment_lengths=(length,) * len(case.segment_lengths))


def blocks(ranks: int, target: Target) -> int:
    """The number of blocks that one of ``ranks`` ranks merges."""
    return ranks // target.heads_shared


def blocks_measured(case: Case, target: Target) -> int:
    """The number of blocks that were merged, at least, in what is measured of a case."""
    merged = blocks(case.shards, target)
    return merged - merged // CAUSAL_PART if case.is_causal else merged


def measured_rows(case: Case, name: str) -> slice:
    """The positions that are measured: those that meet most blocks."""
    if not case.is_causal:
        return slice(None)
    part = case.length // CAUSAL_PART
    return slice(part) if name in ("key.grad", "value.grad") else slice(case.length - part, None)


@st.composite
def _cases(draw: st.DrawFn, target: Target, ranks: int, dtypes: tuple[str, ...]) -> Case:
    least = -(-_ROWS // ranks)
    length = ranks * draw(integers(least, least + 2))
    count = max(1, draw(integers(0, 5)) - 1) if target.branches == "any" else 1
    heads = drawn_from(draw, [1, 2])
    return Case(
        world_size=ranks,
        length=length,
        pass_length=draw(st.booleans()),
        batch=2 // heads,
        heads=heads,
        kv_heads=heads,
        head_dim=_WIDTH // 2,
        value_dim=_WIDTH // 2,
        segment_lengths=(length,) * count,
        dilation_rates=(1,) * count,
        is_causal=False not in target.masks,
        dtype=drawn_from(draw, dtypes),
        data=ONE_SIDED,
        requires_grad="qkv" if target.gradients else "",
        seed=draw(integers(0, 9999)),
    )
