"""torch.compile: the attention itself is not compiled, and a caller's graph breaks once, where it is called."""

import functools
import sys
from collections.abc import Callable
from typing import Any

import torch

_REASON = "the attention's messages are not captured: one graph ends where it is called, and the next begins after it"


def uncompiled(attend: Callable[..., Any]) -> Callable[..., Any]:
    """Return the function, left alone by torch.compile together with all that it calls.

    As `torch.compiler.disable`, which takes seconds to import what compiles; here nothing is imported unless it is.
    """
    disabled: list[Callable[..., Any]] = []

    @functools.wraps(attend)
    def call(*args: Any, **kwargs: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return attend(*args, **kwargs)
        if not disabled:
            disabled.append(torch.compiler.disable(attend))
        return disabled[0](*args, **kwargs)

    call._torchdynamo_disable = True  # type: ignore[attr-defined]
    call._torchdynamo_disable_msg = _REASON  # type: ignore[attr-defined]
    return call
