"""The backend "simulated" of torch.distributed: every operation that a group can be asked for, handed to the endpoint.

The names of the methods are those of torch 2.11 to 2.13, old and new.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from attention_gate.verify.rank import python_backends
from attention_gate.verify.rank.channel import Channel
from attention_gate.verify.rank.collectives import REDUCTIONS
from attention_gate.verify.rank.endpoint import Endpoint
from attention_gate.verify.rank.network_messages import ANY

NAME = "simulated"

_endpoint: Endpoint | None = None


def connect(rank: int, channel: Channel | None) -> None:
    """Make this process a rank of the simulated network at the other end of the channel, before it joins its world."""
    global _endpoint
    if channel is None:
        raise ValueError(f"the backend {NAME} needs the channel to the gate that carries its messages")
    _endpoint = Endpoint(rank, channel)
    if NAME.upper() not in dist.Backend._plugins:
        dist.Backend.register_backend(NAME, _group, extended_api=True, devices=["cpu", "cuda"])


def endpoint() -> Endpoint:
    """This process's endpoint; RuntimeError if it is not a rank of a simulated network."""
    if _endpoint is None:
        raise RuntimeError("this process is not a rank of a simulated network")
    return _endpoint


class Handle(python_backends.WaitingHandle):
    """What an operation returns: waits for one or several of its rank's operations."""

    def __init__(self, numbers: tuple[int, ...], outputs: Sequence[torch.Tensor] = ()) -> None:
        super().__init__(outputs)
        self._numbers = numbers
        self._owner = endpoint().generation()

    def wait(self, timeout: timedelta | None = None) -> bool:
        endpoint().wait(self._numbers, self._owner)
        return True

    def is_completed(self) -> bool:
        return endpoint().poll(self._numbers, self._owner)

    def is_success(self) -> bool:
        return endpoint().poll(self._numbers, self._owner)

    def exception(self) -> None:
        return None

    def source_rank(self) -> int:
        return endpoint().source(self._numbers[0])


class Group(python_backends.PythonGroup):
    """A communicator. Peers are ranks of the group, as torch.distributed hands them to a backend."""

    backend = NAME

    def __init__(self, rank: int, ranks: tuple[int, ...], label: str) -> None:
        super().__init__(rank, len(ranks), label)
        self.ranks = ranks
        self._own = rank

    def send(self, tensors: list[torch.Tensor], peer: int, tag: int = 0) -> Handle:
        _check("send", tensors)
        return self._post("send", peer=self.ranks[peer], tag=tag, sends=tensors)

    def recv(self, tensors: list[torch.Tensor], peer: int, tag: int = 0) -> Handle:
        _check("recv", tensors)
        return self._post("receive", peer=self.ranks[peer], tag=tag, receives=tensors)

    def recv_anysource(self, tensors: list[torch.Tensor], tag: int = 0) -> Handle:
        _check("recv", tensors)
        if endpoint().model == "stream":
            raise RuntimeError(
                "receiving from any source is not available on NCCL, which this delivery model simulates"
            )
        return self._post("receive", peer=ANY, tag=tag, receives=tensors)

    def allgather(self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], opts: Any = None) -> Handle:
        return self._together(
            [("all_gather", [one], list(into), "", -1) for one, into in zip(inputs, outputs, strict=True)]
        )

    def all_gather_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> Handle:
        return self.all_gather_single_coalesced([output], [input], opts)

    _allgather_base = all_gather_single

    def all_gather_single_coalesced(
        self, outputs: list[torch.Tensor], inputs: list[torch.Tensor], opts: Any = None
    ) -> Handle:
        return self._together(
            [
                ("all_gather_single", [one], _split(into, self._size), "", -1)
                for one, into in zip(inputs, outputs, strict=True)
            ]
        )

    allgather_into_tensor_coalesced = all_gather_single_coalesced

    def allgather_coalesced(
        self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], opts: Any = None
    ) -> Handle:
        # Here the lists are turned: outputs[rank][tensor].
        return self._together(
            [("all_gather", [one], [part[k] for part in outputs], "", -1) for k, one in enumerate(inputs)]
        )

    def reduce_scatter(self, outputs: list[torch.Tensor], inputs: list[list[torch.Tensor]], opts: Any = None) -> Handle:
        return self._together(
            [
                ("reduce_scatter", list(parts), [into], _reduction(opts), -1)
                for into, parts in zip(outputs, inputs, strict=True)
            ]
        )

    def reduce_scatter_single(self, output: torch.Tensor, input: torch.Tensor, opts: Any = None) -> Handle:
        return self.reduce_scatter_single_coalesced([output], [input], opts)

    _reduce_scatter_base = reduce_scatter_single

    def reduce_scatter_single_coalesced(
        self, outputs: list[torch.Tensor], inputs: list[torch.Tensor], opts: Any = None
    ) -> Handle:
        return self._together(
            [
                ("reduce_scatter_single", _split(one, self._size), [into], _reduction(opts), -1)
                for into, one in zip(outputs, inputs, strict=True)
            ]
        )

    reduce_scatter_tensor_coalesced = reduce_scatter_single_coalesced

    def allreduce(self, tensors: list[torch.Tensor], opts: Any = None) -> Handle:
        return self._together([("all_reduce", [one], [one], _reduction(opts), -1) for one in tensors])

    allreduce_coalesced = allreduce

    def all_to_all_single(
        self,
        output: torch.Tensor,
        input: torch.Tensor,
        output_sizes: list[int] | None = None,
        input_sizes: list[int] | None = None,
        opts: Any = None,
    ) -> Handle:
        sends, receives = _split(input, self._size, input_sizes), _split(output, self._size, output_sizes)
        return self._together([("all_to_all_single", sends, receives, "", -1)])

    alltoall_base = all_to_all_single

    def alltoall(self, outputs: list[torch.Tensor], inputs: list[torch.Tensor], opts: Any = None) -> Handle:
        return self._together([("all_to_all", list(inputs), list(outputs), "", -1)])

    def broadcast(self, tensors: list[torch.Tensor], opts: Any = None) -> Handle:
        root = _root(opts)
        return self._together(
            [
                ("broadcast", [one] if root == self._own else [], [] if root == self._own else [one], "", root)
                for one in tensors
            ]
        )

    def reduce(self, tensors: list[torch.Tensor], opts: Any = None) -> Handle:
        root = _root(opts)
        return self._together(
            [("reduce", [one], [one] if root == self._own else [], _reduction(opts), root) for one in tensors]
        )

    def gather(self, outputs: list[list[torch.Tensor]], inputs: list[torch.Tensor], opts: Any = None) -> Handle:
        root = _root(opts)
        into = list(outputs[0]) if root == self._own else []
        return self._together([("gather", [inputs[0]], into, "", root)])

    def scatter(self, outputs: list[torch.Tensor], inputs: list[list[torch.Tensor]], opts: Any = None) -> Handle:
        root = _root(opts)
        parts = list(inputs[0]) if root == self._own else []
        return self._together([("scatter", parts, [outputs[0]], "", root)])

    def barrier(self, opts: Any = None) -> Handle:
        return self._together([("barrier", [], [], "", -1)])

    def _start_coalescing(self, device: torch.device) -> None:
        endpoint().start_batch()

    def _end_coalescing(self, device: torch.device) -> Handle:
        return Handle(endpoint().end_batch())

    def _set_sequence_number_for_group(self) -> None:
        pass

    def _post(self, kind: str, **what: Any) -> Handle:
        return Handle((endpoint().post(kind, self, **what),), what.get("receives", ()))

    def _together(self, parts: list[tuple[str, list[torch.Tensor], list[torch.Tensor], str, int]]) -> Handle:
        """Collectives of one call, as one batch behind one handle."""
        numbers: list[int] = []
        outputs: list[torch.Tensor] = []
        for kind, sends, receives, reduction, root in parts:
            _check(kind, [*sends, *receives])
            peer = self.ranks[root] if root >= 0 else -1
            numbers.append(
                endpoint().post(
                    kind,
                    self,
                    peer=peer,
                    sends=sends,
                    receives=receives,
                    reduction=reduction,
                    together=bool(numbers),
                )
            )
            outputs += receives
        return Handle(tuple(numbers), outputs)


def _group(options: Any, _: Any = None) -> Group:
    ranks = tuple(options.global_ranks_in_group) or tuple(range(options.group_size))
    return Group(options.group_rank, ranks, str(options.group_id))


def _check(call: str, tensors: Sequence[torch.Tensor]) -> None:
    for tensor in tensors:
        python_backends.check_contiguous(call, tensor)
        if tensor.device.type not in ("cpu", "cuda"):
            raise ValueError(
                f"{call}: a tensor is on {tensor.device}; the simulated network carries those on a CPU or GPU"
            )
    if len(devices := {str(tensor.device) for tensor in tensors}) > 1:
        found = " and ".join(sorted(devices))
        raise ValueError(f"{call}: tensors are on {found}; those of one call must be on one device")


def _split(tensor: torch.Tensor, size: int, rows: Sequence[int] | None = None) -> list[torch.Tensor]:
    """The parts of a tensor for each rank: equal ones, or with ``rows`` rows each."""
    _check("a collective", [tensor])
    if rows:
        if sum(rows) != tensor.shape[0]:
            raise ValueError(f"split sizes {list(rows)} do not add up to the {tensor.shape[0]} rows of the tensor")
        return list(tensor.detach().split(list(rows)))
    flat = tensor.detach().reshape(-1)
    if flat.numel() % size:
        raise ValueError(f"a tensor of shape {tuple(tensor.shape)} cannot be split evenly among {size} ranks")
    return list(flat.split(flat.numel() // size)) if flat.numel() else [flat] * size


def _reduction(opts: Any) -> str:
    operation = getattr(opts, "reduceOp", None)
    if operation is None:
        return "SUM"
    operation = getattr(operation, "op", operation)
    name = str(getattr(operation, "name", operation)).rpartition(".")[2]
    if name not in REDUCTIONS:
        raise ValueError(f"reduction {name}: the simulated network takes {', '.join(REDUCTIONS)}")
    return name


def _root(opts: Any) -> int:
    return int(getattr(opts, "rootRank", 0))
