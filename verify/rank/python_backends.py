"""What backends of torch.distributed that are written in Python share: handles, groups, and which tensors they take.

The names of the methods are those of torch 2.11 to 2.13, old and new.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist


class WaitingHandle(dist.Work):
    """What an operation returns: every other way to wait for it is its ``wait``, after which its ``outputs`` are there.

    A backend defines ``wait``, ``is_completed``, ``is_success``, ``exception`` and, for receives, ``source_rank``.
    """

    def __init__(self, outputs: Sequence[torch.Tensor]) -> None:
        super().__init__()
        self._outputs = list(outputs)

    def synchronize(self) -> None:
        self.wait()

    def block_current_stream(self) -> None:
        self.wait()

    def _source_rank(self) -> int:
        return self.source_rank()

    def result(self) -> list[torch.Tensor]:
        return self._outputs

    def get_future(self) -> Any:
        self.wait()
        future: Any = torch.futures.Future()
        future.set_result(self._outputs)
        return future


_ProcessGroup: Any = dist.ProcessGroup  # its stub lists outdated overloads too


class PythonGroup(_ProcessGroup):
    """A communicator of the backend ``backend``; ``label`` is torch's name of the group."""

    backend: str

    def __init__(self, rank: int, size: int, label: str) -> None:
        super().__init__(rank, size)
        self.label = label
        self._size = size

    def size(self) -> int:
        return self._size

    @property
    def group_name(self) -> str:
        return self.label

    def getBackendName(self) -> str:
        return self.backend

    def shutdown(self) -> None:
        pass

    def abort(self) -> None:
        pass


def check_contiguous(call: str, tensor: torch.Tensor) -> None:
    """ValueError if the tensor is not contiguous, as of other backends."""
    if not tensor.is_contiguous():
        raise ValueError(
            f"{call}: a tensor of shape {tuple(tensor.shape)} has strides {tuple(tensor.stride())}; tensors passed "
            "to torch.distributed must be contiguous"
        )
