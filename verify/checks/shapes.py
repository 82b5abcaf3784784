"""Shapes past a kernel's tile: rows, heads, heads per kv head, dimensions, batch; other checks keep to small ones."""

from __future__ import annotations

from collections.abc import Sequence

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.options import HEADS
from attention_gate.verify.checks.check import Axes, Check, Parameters, all_gradients, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.target.target import Target


def _shapes(session: Session, case: Case, parameters: Parameters) -> Verdict:
    return session.judged(case, lse=session.target.returns_lse)


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    wanted = all_gradients(target)
    return plain(
        dtype=target.dtypes,
        requires_grad=wanted,
        shards=("even", "uneven"),
        scale=("default",),
        data=("normal",),
        rows=("small", "tiles"),
        heads=HEADS,
        head_dim=("small", "wide"),
        value_dim=("same", "different", "wide"),
        batch=("few", "many"),
    )(target, world_sizes)


SHAPES = Check(
    name="shapes",
    promise="is right for shapes past a kernel's tile: rows, heads, heads per kv head, dimensions, batch",
    builds_on=("forward", "gradients"),
    axes=_axes,
    examine=_shapes,
    weight=0.6,
    pairwise=True,
)
