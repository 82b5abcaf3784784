"""One call of the target inside a rank: inputs, call, gradients, result."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.data import Name, joint_rows, per_head, rows, sum_dtype
from attention_gate.verify.case.masks import visibility
from attention_gate.verify.case.positions import OwnRows
from attention_gate.verify.case.styles import AUTOCAST, MIXED
from attention_gate.verify.rank.tensors import in_form, values_of, with_strides
from attention_gate.verify.rank.ways_to_call import backward, called

INPUTS: tuple[Name, ...] = ("query", "key", "value")


@dataclass(frozen=True)
class Call:
    """Everything that a procedure needs on one rank."""

    attend: Callable[..., Any]
    cases: tuple[Case, ...]
    positions: tuple[OwnRows, ...]
    group: Any
    device: torch.device
    shard: int
    options: dict[str, Any]


@dataclass
class Attended:
    """What one rank got from one call: arrays in the tensors' own layouts, and the facts about the tensors.

    ``arrays`` has "out", perhaps "lse", and "query.grad", … (None: no gradient arrived). ``facts`` says of each
    tensor its kind, shape, dtype and device, or the type of what is not a tensor; ``remarks`` what else was seen.
    """

    arrays: dict[str, np.ndarray | None] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


class Inputs:
    """The tensors of one case on this rank, and the call that is made with them."""

    def __init__(self, call: Call, index: int) -> None:
        self.call = call
        self.case = call.cases[index]
        self.positions = call.positions[index]
        self.tensors = [self._input(name) for name in INPUTS]
        self.of_all_ranks = self._of_all_ranks()
        self.given = dict(zip(INPUTS, self.tensors, strict=True)) | self.of_all_ranks
        self._before = [tensor.detach().clone() for tensor in self.given.values()]
        self._versions = [tensor._version for tensor in self.given.values()]
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
            **self._terms(),
        }

    def _terms(self) -> dict[str, Any]:
        """The optional terms that the case has, and the rows of a block of its layout."""
        case = self.case
        found: dict[str, Any] = {name: value for name, value in visibility(case).items() if value is not None}
        for name in ("document_lengths", "query_lengths"):
            if name in found:
                found[name] = list(found[name])
        for name in ("softcap", "query_length", "interleave"):
            if (value := getattr(case, name)) is not None:
                found[name] = value
        if "window" in found and self.call.options.get("window_counts") == "keys":
            found["window"] = tuple(None if bound is None else bound + 1 for bound in found["window"])
        if case.slopes:
            found["slopes"] = per_head(case, "slopes").tolist()
        if case.joint is not None:
            found["joint"] = case.joint[0]
        return found | self.of_all_ranks

    def _of_all_ranks(self) -> dict[str, torch.Tensor]:
        """The tensors that every rank has in whole: a sink, rows of key and value."""
        found: dict[str, torch.Tensor] = {}
        if self.case.sink is not None:
            values = torch.from_numpy(per_head(self.case, "sink")).to(getattr(torch, sum_dtype(self.case)))
            found["sink"] = values.to(self.call.device)
        if self.case.joint is not None:
            found["joint_key"] = self._tensor(joint_rows(self.case, "key"))
            found["joint_value"] = self._tensor(joint_rows(self.case, "value"), "value")
        # Under other callers they would be tensors that the function closes over.
        if self.case.caller == "plain":
            for name, tensor in found.items():
                wanted = self.case.gradients and (
                    name == "sink" or name.removeprefix("joint_")[0] in self.case.gradients
                )
                tensor.requires_grad_(bool(wanted))
        return found

    def forward(self) -> None:
        """Call the target, and note what came back."""
        arguments = self.arguments()
        with_lse = bool(self.call.options.get("lse"))
        if with_lse:
            arguments["return_lse"] = True
        result = called(self.case.caller, partial(self.call.attend, **arguments), self.tensors)
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
        if not self.case.gradients or not isinstance(self.out, torch.Tensor):
            return
        upstream = rows(self.case, "upstream", self.positions.queries)
        if self.out.shape != upstream.shape:
            return  # already a finding, by its facts
        if not self.out.requires_grad:
            self.result.remarks.append("the result does not require gradients although an input does")
            return
        tensor = self.upstream(in_form(self._tensor(upstream).to(self.out.dtype), self.case.upstream))
        named: list[tuple[str, torch.Tensor]] = [
            (n, t) for n, t in zip(INPUTS, self.tensors, strict=True) if n[0] in self.case.requires_grad
        ]
        named += [(name, tensor) for name, tensor in self.of_all_ranks.items() if tensor.requires_grad]
        wanted = [t for _, t in named]
        kept = tensor.clone()
        grads = backward(self.case.caller, self.out, wanted, tensor)
        if not torch.equal(kept, tensor) and not bool(torch.isnan(kept).any()):
            self.result.remarks.append("the upstream gradient was modified")
        for (name, _), grad in zip(named, grads, strict=True):
            if grad is None:
                self.result.arrays[f"{name}.grad"] = None
            else:
                self._note(f"{name}.grad", grad)

    def upstream(self, tensor: torch.Tensor) -> torch.Tensor:
        """The upstream gradient as the target gets it."""
        return tensor

    def finish(self) -> Attended:
        """The result; values are read at the end, so that reused buffers show."""
        for name, tensor in (("out", self.out), ("lse", self.lse)):
            if isinstance(tensor, torch.Tensor) and tuple(tensor.shape) == self._due(name):
                self.result.arrays[name] = values_of(tensor)
        for (name, tensor), before, version in zip(self.given.items(), self._before, self._versions, strict=True):
            same = torch.equal(tensor.detach().nan_to_num(), before.nan_to_num())
            if not same or tensor._version != version:
                self.result.remarks.append(f"{name} was modified")
        if isinstance(self.out, torch.Tensor) and not self.case.gradients and self.out.requires_grad:
            without = "no input does" if not self.case.requires_grad else f"it was called under {self.case.caller}"
            self.result.remarks.append(f"the result requires gradients although {without}")
        return self.result

    def _due(self, name: str) -> tuple[int, ...]:
        """The shape that a result must have; a result of another shape, which may be huge, is not copied."""
        case, rows = self.case, len(self.positions.queries)
        return (case.batch, case.heads, rows) if name == "lse" else (case.batch, rows, case.heads, case.value_dim)

    def _note(self, name: str, tensor: Any) -> None:
        if isinstance(tensor, torch.Tensor):
            dtype = str(tensor.dtype).removeprefix("torch.")
            kind = "tensor" if tensor.layout == torch.strided else f"{tensor.layout} tensor"
            self.result.facts[name] = f"{kind} {tuple(tensor.shape)} {dtype} {tensor.device.type}"
            if name not in ("out", "lse"):
                self.result.arrays[name] = values_of(tensor)
        else:
            self.result.facts[name] = _kind(tensor)

    def _input(self, name: Name) -> torch.Tensor:
        positions = self.positions.of(name)
        values = rows(self.case, name, positions)
        poison = self.call.options.get("poison")
        if poison is not None and poison[0] == name:  # (input, position, value), of all heads or of one
            _, position, value, *one = poison
            batch, head = one or (slice(None), slice(None))
            values[batch, positions == position, head] = value
        tensor = with_strides(self._tensor(values, name), self.case.buffers)
        return tensor.requires_grad_(name[0] in self.case.requires_grad)

    def _tensor(self, values: np.ndarray, name: str = "") -> torch.Tensor:
        narrow = name == "value" and self.case.caller == MIXED
        dtype = getattr(torch, AUTOCAST if narrow else self.case.dtype)
        return torch.from_numpy(np.ascontiguousarray(values)).to(dtype).to(self.call.device)


def _share_memory(one: torch.Tensor, other: torch.Tensor) -> bool:
    if one.layout != torch.strided:
        return False
    return one.numel() > 0 and one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr() != 0


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__[:100]}"
