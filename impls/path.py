"""Which way a call takes, through which kernels and how rows travel: asked beforehand, and chosen where need be."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.arguments import Arguments, check, split
from attention_gate.impls.fused import Task, backend_of, task_for, transport_of
from attention_gate.impls.fused.kernels import BACKENDS
from attention_gate.impls.scores import Scores
from attention_gate.impls.tiling import Layout, any_row_travels

KERNELS = ("fused", "plain", *BACKENDS)

_chosen = "auto"


class Path(NamedTuple):
    """What a call runs on, each with the reason, "" where there is nothing to say."""

    kernels: str  # "fused" or "plain"
    because: str  # why not fused ones
    backend: str  # whose kernels: "cudnn", "flash-attn-4", "FlashAttention-2" or "plain products"
    backend_because: str
    transport: str  # how rows travel: "shared memory", "messages", or "" where none do
    transport_because: str


@contextmanager
def kernels(choice: str) -> Iterator[None]:
    """Choose which kernels all calls of this process run on meanwhile, the same on every rank.

        with impls.kernels("fused"):
            out = attend(query, key, value, segment_lengths=[n], dilation_rates=[1])

    "auto", the default: fused kernels where devices, dtypes and shapes allow, the fastest that is installed. "fused":
    calls that these do not serve raise ValueError, on every rank, with the reason. "cudnn", "flash-attn-4": the same,
    of that library's kernels alone. "plain": matrix products of torch. A backward pass runs on what its forward pass
    ran on.
    """
    global _chosen
    if choice not in KERNELS:
        raise ValueError(f"kernels: {choice!r} is not one of {', '.join(map(repr, KERNELS))}")
    before, _chosen = _chosen, choice
    try:
        yield
    finally:
        _chosen = before


def chosen() -> str:
    """Return what `kernels` was last given, "auto" outside of it."""
    return _chosen


def path_for(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    is_causal: bool = False,
    scale: float | None = None,
    sequence_length: int | None = None,
    group: dist.ProcessGroup | None = None,
    layout: str = "contiguous",
    **terms: Any,
) -> Path:
    """Return which way `attend` takes with these arguments, in either implementation; no rank waits for another.

        path = impls.path_for(query, key, value, segment_lengths=[2048], dilation_rates=[1])
        print(path.kernels, path.because, path.backend, path.transport)

    Whether the GPUs of a group share memory is known from its first call on.

    Optional terms are those of `attend`. Raises TypeError or ValueError as `attend` does for what this rank's arguments
    alone show.
    """
    arguments = Arguments(
        query,
        key,
        value,
        segment_lengths,
        dilation_rates,
        is_causal,
        scale,
        sequence_length,
        False,
        layout,
        *split(terms),
    )
    is_ready = dist.is_available() and dist.is_initialized()
    rank, world_size = (dist.get_rank(group), dist.get_world_size(group)) if is_ready else (0, 1)
    plan, number, checked, _ = check(arguments, rank, world_size)
    is_zigzag = layout == "zigzag" and world_size > 1
    scores = Scores(number, checked.softcap, checked.slopes, checked.mask)
    task = choose(query, value, plan, is_zigzag, scores, group, True, checked.joint is not None)
    if isinstance(task, Task):
        return Path("fused", "", *backend_of(task, query, value), *transport_of(task, query.device))
    transport = ("messages", "plain products send them") if any_row_travels(plan) else ("", "")
    return Path("plain", task, "plain products", "", *transport)


def choose(
    query: Tensor,
    value: Tensor,
    layout: Layout,
    is_zigzag: bool,
    scores: Scores,
    group: dist.ProcessGroup | None,
    in_parts: bool,
    has_joint: bool,
) -> Task | str:
    """Return what the call is to fused kernels, or why it does not run on them: the same answer on every rank."""
    if _chosen == "plain":
        return "plain products are chosen"
    # Without causality dense queries and keys have no order: any even shards are as good as others.
    is_zigzag = is_zigzag and not layout.is_symmetric
    backend = _chosen if _chosen in BACKENDS else "auto"
    others = {"mask": scores.mask is not None, "slopes": scores.slopes is not None, "joint_key": has_joint}
    task: Task | str
    if unserved := [name for name, is_given in others.items() if is_given]:
        task = f"fused kernels take no {', '.join(unserved)}"
    else:
        task = task_for(query, value, layout, is_zigzag, scores.scale, group, in_parts, backend, scores.softcap)
    if _chosen != "auto" and isinstance(task, str):
        raise ValueError(f"kernels: {_chosen} ones are chosen and do not serve: {task}")
    return task
