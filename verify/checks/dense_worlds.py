"""Dense cases in worlds of any size: what claims of overlap and memory are judged on, on the simulated network.

The smallest worlds show neither, so these are judged in worlds of their own size.
"""

from __future__ import annotations

from collections.abc import Sequence

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Axes, all_gradients, plain
from attention_gate.verify.judge.session import Session
from attention_gate.verify.target.target import Target

#: The width of query, key and value.
WIDTH = 512


def dense(session: Session, case: Case, size: int, rows: int, width: int) -> Case:
    """Everybody sees everybody: the case in which all that travels is used, and everything travels."""
    made = case.replace(
        world_size=size,
        length=size * rows,
        segment_lengths=(size * rows,),
        dilation_rates=(1,),
        is_causal=False,
        window=None,
        document_lengths=None,
        mask=None,
        batch=1,
        head_dim=width,
        value_dim=width,
    )
    return session.fitted(made)


def dense_axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    """The simplest dense call over several ranks."""
    wanted = all_gradients(target)
    several = tuple(size for size in sorted(world_sizes) if size > 1)
    return plain(
        ranks=several,
        requires_grad=wanted,
        data=("normal",),
        mask=("full",),
        branches=("dense",),
        shards=("even",),
        value_dim=("same",),
    )(target, world_sizes)
