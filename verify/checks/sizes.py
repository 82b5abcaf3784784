"""Sizes beyond a kernel's tile: shards of many rows, wide heads; elsewhere all is small."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.target.target import Target

#: Rows of a shard, at most: past tiles of 16, 32 and 64, with a remainder.
_ROWS = 90

#: Dimensions of a head, at most.
_DIMENSIONS = 80


def _sizes(session: Session, case: Case, parameters: Parameters) -> Verdict:
    return session.judged(case)


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    wanted = all_gradients(target)
    return plain(
        requires_grad=wanted,
        heads=("single",),
        shards=("even", "uneven"),
        scale=("default",),
        data=("normal", "flat", "offset"),
    )(target, world_sizes)


def _wide(target: Target, world_sizes: Sequence[int]) -> st.SearchStrategy[Case] | None:
    if False not in target.masks:
        return None
    ranks = max(target.least_ranks, min(world_sizes))
    return _wide_cases(target, ranks)


@st.composite
def _wide_cases(draw: st.DrawFn, target: Target, ranks: int) -> Case:
    length = ranks * draw(st.integers(1, 4))
    head_dim = draw(st.integers(1, _DIMENSIONS))
    return Case(
        world_size=ranks,
        length=length,
        head_dim=head_dim,
        value_dim=draw(st.integers(1, _DIMENSIONS)) if target.value_dim else head_dim,
        segment_lengths=(length,),
        dilation_rates=(1,),
        dtype=target.logic_dtype,
        requires_grad="qkv" if target.gradients else "",
        seed=draw(st.integers(0, 9999)),
    )


SIZES = Check(
    name="sizes",
    promise="is right for shards and heads larger than a kernel's tile",
    builds_on=("forward", "gradients"),
    axes=_axes,
    examine=_sizes,
    extra_cases=_wide,
    weight=0.4,
    max_rows=_ROWS,
)
