"""Calls of the target on the simulated network while one of the streams of a GPU lags."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attention_gate.verify.rank.attended import Attended, Call, Inputs
from attention_gate.verify.rank.procedures import PROCEDURES
from attention_gate.verify.rank.simulated_procedures import taking_part
from attention_gate.verify.rank.tensors import values_of


def lag(call: Call) -> tuple[Attended, int]:
    """One call and its backward pass while a stream lags, and how many streams it used. Options: model, delayed.

    What the target is given is written on the caller's stream and what it returns is read there, at once: it is there
    in time only for a target that orders its streams.
    """
    with taking_part(call) as end:
        network = end.stream(call.device)
        inputs = _LateInputs(call, 0)
        torch.cuda.synchronize(call.device)
        with network.lagging(call.options["delayed"]) as network.lag:
            inputs.arrive_late(list(inputs.given.values()))
            inputs.forward()
            results = {name: _copied(tensor) for name, tensor in (("out", inputs.out), ("lse", inputs.lse))}
            end.enter("backward")
            inputs.backward()
            end.enter("after")
        attended = inputs.finish()
        for name in results.keys() & attended.arrays.keys():
            attended.arrays[name] = values_of(results[name])
        return attended, network.lag.streams


class _LateInputs(Inputs):
    """Inputs and an upstream gradient that are not there until the caller's stream has come so far."""

    def upstream(self, tensor: torch.Tensor) -> torch.Tensor:
        self.arrive_late([tensor])
        return tensor

    def arrive_late(self, tensors: Sequence[torch.Tensor]) -> None:
        """Write them again, over NaN, past autograd."""
        written = [tensor.data for tensor in tensors]
        values = [tensor.clone() for tensor in written]
        for tensor in written:
            tensor.fill_(float("nan"))
        torch.cuda.synchronize(self.call.device)
        for tensor, value in zip(written, values, strict=True):
            tensor.copy_(value)


def _copied(tensor: object) -> torch.Tensor:
    return tensor.detach().clone() if isinstance(tensor, torch.Tensor) else torch.empty(0)


PROCEDURES["lag"] = lag
