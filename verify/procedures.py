"""What runs inside a rank: making the inputs of a case, calling the judged attention, and bringing home what it did."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from verify.bad_arguments import BAD_ARGUMENTS
from verify.case import Case
from verify.choices import one_of
from verify.data import Name, rows

INPUTS: tuple[Name, ...] = ("query", "key", "value")


@dataclass(frozen=True)
class Call:
    """Everything that a procedure needs on one rank."""

    attend: Callable[..., Any]
    cases: tuple[Case, ...]
    positions: tuple[np.ndarray, ...]
    group: Any
    device: torch.device
    shard: int
    options: dict[str, Any]


@dataclass
class Attended:
    """What one rank got from one call: arrays in the tensors' own layouts, and the facts about the tensors.

    ``arrays`` has "out", perhaps "lse", and "query.grad", … (None: no gradient arrived). ``facts`` says of each
    tensor its kind, shape, dtype and device, or of what is no tensor its type; ``remarks`` what else was seen.
    """

    arrays: dict[str, np.ndarray | None] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Refusal:
    """How a rank answered a bad argument: the exception's type and text, whether it is a ValueError or TypeError."""

    type: str | None
    message: str
    right_kind: bool


PROCEDURES: dict[str, Callable[[Call], Any]] = {}


def procedure(name: str) -> Callable[[Call], Any]:
    """The procedure of that name; ValueError if there is none."""
    one_of("procedure", name, PROCEDURES)
    return PROCEDURES[name]


def _register(function: Callable[[Call], Any]) -> Callable[[Call], Any]:
    PROCEDURES[function.__name__] = function
    return function


@_register
def load(call: Call) -> None:
    """Nothing: by the time it runs, the target has been imported."""


@_register
def attend(call: Call) -> Attended:
    """One call, and its backward pass if any input requires a gradient. Options: lse, poison, filled."""
    inputs = Inputs(call, 0)
    with _filled_memory() if call.options.get("filled") else contextlib.nullcontext():
        inputs.forward()
        inputs.backward()
    return inputs.finish()


@_register
def interleave(call: Call) -> list[Attended]:
    """Several calls whose forward passes all come before the first backward pass. Option: order of the backwards."""
    calls = [Inputs(call, k) for k in range(len(call.cases))]
    for inputs in calls:
        inputs.forward()
    for k in call.options["order"]:
        calls[k].backward()
    return [inputs.finish() for inputs in calls]


@_register
def refuse(call: Call) -> Refusal:
    """A call whose arguments are bad on some ranks. Options: mistake (its name), shards (on which)."""
    inputs = Inputs(call, 0)
    arguments = dict(zip(INPUTS, inputs.tensors, strict=True)) | inputs.arguments()
    if call.shard in call.options["shards"]:
        arguments = BAD_ARGUMENTS[call.options["mistake"]].spoil(arguments)
    try:
        query, key, value = (arguments.pop(name) for name in INPUTS)
        call.attend(query, key, value, **arguments)
    except Exception as error:
        return Refusal(type(error).__name__, str(error), isinstance(error, ValueError | TypeError))
    return Refusal(None, "", False)


@_register
def repeat(call: Call) -> float:
    """Seconds per call of the bare loop, inputs made and gradients taken anew each time. Option: times."""
    start = time.perf_counter()
    for _ in range(call.options["times"]):
        inputs = Inputs(call, 0)
        inputs.forward()
        inputs.backward()
        inputs.finish()
    return (time.perf_counter() - start) / call.options["times"]


class Inputs:
    """The tensors of one case on this rank, and the call that is made with them."""

    def __init__(self, call: Call, index: int) -> None:
        self.call = call
        self.case = call.cases[index]
        self.positions = call.positions[index]
        self.tensors = [self._input(name) for name in INPUTS]
        self._before = [tensor.detach().clone() for tensor in self.tensors]
        self._versions = [tensor._version for tensor in self.tensors]
        self.result = Attended()
        self.out: Any = None
        self.lse: Any = None

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the call."""
        case = self.case
        return {
            "segment_lengths": list(case.segment_lengths),
            "dilation_rates": list(case.dilation_rates),
            "is_causal": case.is_causal,
            "scale": case.scale,
            "sequence_length": case.sequence_length,
            "group": self.call.group,
        }

    def forward(self) -> None:
        """Call the target, and note what came back."""
        arguments = self.arguments()
        with_lse = bool(self.call.options.get("lse"))
        if with_lse:
            arguments["return_lse"] = True
        result = self.call.attend(*self.tensors, **arguments)
        if with_lse:
            if not (isinstance(result, tuple) and len(result) == 2):
                self.result.facts["out"] = f"{_kind(result)}, not a pair (out, lse)"
                return
            result, self.lse = result
            self._note("lse", self.lse)
        self.out = result
        self._note("out", result)
        if isinstance(result, torch.Tensor) and any(_share_memory(result, tensor) for tensor in self.tensors):
            self.result.remarks.append("the result shares memory with an input")

    def backward(self) -> None:
        """Backpropagate this rank's rows of the upstream gradient into those inputs that require it."""
        if not self.case.requires_grad or not isinstance(self.out, torch.Tensor):
            return
        upstream = rows(self.case, "upstream", self.positions)
        if self.out.shape != upstream.shape:
            return  # already a finding, by its facts
        if not self.out.requires_grad:
            self.result.remarks.append("the result does not require gradients although an input does")
            return
        tensor = _upstream(self._tensor(upstream).to(self.out.dtype), self.case.upstream)
        wanted = [t for t in self.tensors if t.requires_grad]
        kept = tensor.clone()
        grads = torch.autograd.grad(self.out, wanted, tensor, allow_unused=True)
        if not torch.equal(kept, tensor) and not bool(torch.isnan(kept).any()):
            self.result.remarks.append("the upstream gradient was modified")
        for name, grad in zip([n for n in INPUTS if n[0] in self.case.requires_grad], grads, strict=True):
            if grad is None:
                self.result.arrays[f"{name}.grad"] = None
            else:
                self._note(f"{name}.grad", grad)

    def finish(self) -> Attended:
        """What was seen, once all is done: the values are read here, so that later calls had time to spoil them."""
        for name, tensor in (("out", self.out), ("lse", self.lse)):
            if isinstance(tensor, torch.Tensor) and tuple(tensor.shape) == self._due(name):
                self.result.arrays[name] = _array(tensor)
        for name, tensor, before, version in zip(INPUTS, self.tensors, self._before, self._versions, strict=True):
            same = torch.equal(tensor.detach().nan_to_num(), before.nan_to_num())
            if not same or tensor._version != version:
                self.result.remarks.append(f"{name} was modified")
        if isinstance(self.out, torch.Tensor) and not self.case.requires_grad and self.out.requires_grad:
            self.result.remarks.append("the result requires gradients although no input does")
        return self.result

    def _due(self, name: str) -> tuple[int, ...]:
        """The shape that a result must have; one of another shape, which may be huge, is not brought home."""
        case, rows = self.case, len(self.positions)
        return (case.batch, case.heads, rows) if name == "lse" else (case.batch, rows, case.heads, case.value_dim)

    def _note(self, name: str, tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor):
            dtype = str(tensor.dtype).removeprefix("torch.")
            kind = "tensor" if tensor.layout == torch.strided else f"{tensor.layout} tensor"
            self.result.facts[name] = f"{kind} {tuple(tensor.shape)} {dtype} {tensor.device.type}"
            if name not in ("out", "lse"):
                self.result.arrays[name] = _array(tensor)
        else:
            self.result.facts[name] = _kind(tensor)

    def _input(self, name: Name) -> torch.Tensor:
        values = rows(self.case, name, self.positions)
        poison = self.call.options.get("poison")
        if poison is not None and poison[0] == name:
            values[:, self.positions == poison[1]] = poison[2]
        tensor = _strided(self._tensor(values), self.case.buffers)
        return tensor.requires_grad_(name[0] in self.case.requires_grad)

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        dtype = getattr(torch, self.case.dtype)
        return torch.from_numpy(np.ascontiguousarray(values)).to(dtype).to(self.call.device)


def _strided(tensor: torch.Tensor, buffers: str) -> torch.Tensor:
    """The same values behind other strides."""
    if buffers == "heads-first":  # (batch, heads, rows, dim) in memory, as many models keep it
        return tensor.transpose(1, 2).contiguous().transpose(1, 2)
    if buffers == "sliced":  # every second element of a wider buffer, the gaps filled with nonsense
        wide = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1]), 7.25, dtype=tensor.dtype, device=tensor.device)
        wide[..., ::2] = tensor
        return wide[..., ::2]
    if buffers == "packed":  # one part of a wider buffer, as query, key and value of one projection are
        wide = torch.full((*tensor.shape[:-1], 3 + tensor.shape[-1]), 7.25, dtype=tensor.dtype, device=tensor.device)
        wide[..., 3:] = tensor
        return wide[..., 3:]
    return tensor


def _upstream(tensor: torch.Tensor, form: str) -> torch.Tensor:
    """The upstream gradient in another form; an expanded one is a single number, as that of ``out.sum()`` is."""
    if form == "expanded":
        return tensor.reshape(-1)[:1].expand(tensor.numel()).view(tensor.shape) if tensor.numel() else tensor
    if form == "transposed":
        return tensor.transpose(1, 3).contiguous().transpose(1, 3)
    return _strided(tensor, form)


def _array(tensor: torch.Tensor) -> np.ndarray | None:
    """The values as numpy holds them exactly: bfloat16 becomes float32. None of a tensor that has no values."""
    if tensor.layout != torch.strided or tensor.device.type == "meta":
        return None  # its facts tell
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy().copy()


@contextlib.contextmanager
def _filled_memory() -> Iterator[None]:
    """Within: memory that torch allocates without writing to it holds NaN, not what happens to be there."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")  # of which filling is a part, unless torch is told otherwise
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)


def _share_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.layout != torch.strided:
        return False
    return one.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() != 0


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__[:100]}"
