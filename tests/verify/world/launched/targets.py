"""One right attention and three wrong ones, to be judged in worlds of our own and in launched ones."""

from __future__ import annotations

import threading
from typing import Any

import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.robust import attend as right

__all__ = ["hangs", "raises", "right", "wrong_on_the_last_rank"]


def wrong_on_the_last_rank(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    """Right but for the last rank of two or more, which returns a little too much."""
    out = right(query, key, value, **options)
    return out * 1.01 if _is_last(options["group"]) else out


def hangs(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    """The last rank of two or more never returns."""
    if _is_last(options["group"]):
        threading.Event().wait()
    return right(query, key, value, **options)


def raises(query: Tensor, key: Tensor, value: Tensor, **options: Any) -> Any:
    """The last rank of two or more raises, and leaves the others waiting."""
    if _is_last(options["group"]):
        raise RuntimeError("out of luck")
    return right(query, key, value, **options)


def _is_last(group: Any) -> bool:
    return dist.get_rank(group) == dist.get_world_size(group) - 1 > 0
