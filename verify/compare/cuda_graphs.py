"""A call as a CUDA graph: replayed, it needs the host for one launch, however many kernels it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist

_WARM_UPS = 3


def captured(call: Callable[[], Any]) -> Callable[[], Any]:
    """The call's replay, captured as torch's documentation says: after some calls on a stream beside the current one.

    All ranks must do so alike. Whatever the call raises while it is captured is raised here.
    """
    beside = torch.cuda.Stream()
    beside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(beside):
        for _ in range(_WARM_UPS):
            call()
    torch.cuda.current_stream().wait_stream(beside)
    dist.barrier()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = call()

    def replay() -> Any:
        graph.replay()
        return result

    return replay
