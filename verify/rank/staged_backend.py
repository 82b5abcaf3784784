"""The backend "staged" of torch.distributed: gloo, with CUDA tensors copied through host memory.

Ranks that share a GPU cannot use NCCL, and gloo's own messages take CPU tensors alone. The names of the methods are
those of torch 2.11 to 2.13, old and new.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from attention_gate.verify.rank import python_backends

NAME = "staged"


def register() -> None:
    """Let torch.distributed know the backend."""
    if NAME.upper() not in dist.Backend._plugins:
        dist.Backend.register_backend(NAME, Group, extended_api=True, devices=["cpu", "cuda"])


class Handle(python_backends.WaitingHandle):
    """What an operation returns: waits for gloo, then what was received is copied to where it belongs."""

    def __init__(self, work: Any, copies: list[tuple[torch.Tensor, torch.Tensor]], outputs: list[torch.Tensor]) -> None:
        super().__init__(outputs)
        self._work, self._copies = work, copies

    def wait(self, timeout: timedelta | None = None) -> bool:
        done = self._work.wait() if timeout is None else self._work.wait(timeout)
        for tensor, copy in self._copies:
            tensor.data.copy_(copy)
        self._copies = []
        return bool(done)

    def is_completed(self) -> bool:
        completed = bool(self._work.is_completed())
        return self.wait() if completed and self._copies else completed

    def is_success(self) -> bool:
        return bool(self._work.is_success())

    def exception(self) -> Any:
        return self._work.exception()

    def source_rank(self) -> int:
        return int(self._work._source_rank())


def _staged(name: str, *, receives: bool = True) -> Callable[..., Handle]:
    """The method of gloo's group of that name, whose first argument is what it ``receives``."""

    def method(self: Group, *arguments: Any, **options: Any) -> Handle:
        copies: list[tuple[torch.Tensor, torch.Tensor]] = []
        outputs: list[torch.Tensor] = []
        staged = []
        for place, argument in enumerate(arguments):
            kept: list[tuple[torch.Tensor, torch.Tensor]] = []
            staged.append(_on_host(argument, kept, name))
            if place == 0 and receives:
                copies, outputs = kept, [tensor for tensor, _ in kept]
        return Handle(getattr(self.gloo, name)(*staged, **options), copies, outputs)

    return method


class Group(python_backends.PythonGroup):
    """A communicator over a group of gloo's."""

    backend = NAME

    def __init__(self, options: Any, _: Any = None) -> None:
        super().__init__(options.group_rank, options.group_size, str(options.group_id))
        self.gloo: Any = dist.ProcessGroupGloo(
            options.store, options.group_rank, options.group_size, timeout=options.timeout
        )

    send = _staged("send", receives=False)
    recv = _staged("recv")
    recv_anysource = _staged("recv_anysource")
    allgather = _staged("allgather")
    allgather_coalesced = _staged("allgather_coalesced")
    all_gather_single = _allgather_base = _staged("_allgather_base")
    reduce_scatter = _staged("reduce_scatter")
    reduce_scatter_single = _reduce_scatter_base = _staged("_reduce_scatter_base")
    allreduce = _staged("allreduce")
    allreduce_coalesced = _staged("allreduce_coalesced")
    all_to_all_single = alltoall_base = _staged("alltoall_base")
    alltoall = _staged("alltoall")
    broadcast = _staged("broadcast")
    reduce = _staged("reduce")
    gather = _staged("gather")
    scatter = _staged("scatter")
    barrier = _staged("barrier", receives=False)

    def all_gather_single_coalesced(
        self, outputs: list[torch.Tensor], inputs: list[torch.Tensor], opts: Any = None
    ) -> _AllOf:
        return _AllOf([self.all_gather_single(*pair) for pair in zip(outputs, inputs, strict=True)])

    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def reduce_scatter_single_coalesced(
        self, outputs: list[torch.Tensor], inputs: list[torch.Tensor], opts: Any = None
    ) -> _AllOf:
        options = () if opts is None else (opts,)
        return _AllOf([self.reduce_scatter_single(*pair, *options) for pair in zip(outputs, inputs, strict=True)])

    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    def _set_sequence_number_for_group(self) -> None:
        self.gloo._set_sequence_number_for_group()


class _AllOf(python_backends.WaitingHandle):
    """Several operations behind one handle."""

    def __init__(self, handles: list[Handle]) -> None:
        super().__init__([tensor for handle in handles for tensor in handle.result()])
        self._handles = handles

    def wait(self, timeout: timedelta | None = None) -> bool:
        waited = [handle.wait(timeout) for handle in self._handles]
        return all(waited)

    def is_completed(self) -> bool:
        return all(handle.is_completed() for handle in self._handles)

    def is_success(self) -> bool:
        return all(handle.is_success() for handle in self._handles)

    def exception(self) -> Any:
        return next((error for handle in self._handles if (error := handle.exception())), None)


def _on_host(argument: Any, copies: list[tuple[torch.Tensor, torch.Tensor]], call: str) -> Any:
    """The argument with its tensors copied to host memory; notes each with its copy."""
    if isinstance(argument, torch.Tensor):
        python_backends.check_contiguous(call, argument)
        copies.append((argument, argument.detach().to("cpu", copy=True)))
        return copies[-1][1]
    if isinstance(argument, list | tuple) and any(isinstance(one, torch.Tensor | list | tuple) for one in argument):
        return [_on_host(one, copies, call) for one in argument]
    return argument
