"""The procedures that a rank can run on its target, by name."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from attention_gate.verify.case.bad_arguments import BAD_ARGUMENTS
from attention_gate.verify.rank.attended import INPUTS, Attended, Call, Inputs
from attention_gate.verify.rank.long_calls import LONG_CALLS
from attention_gate.verify.target.choices import one_of


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
def function(call: Call) -> Any:
    """What the target returns, any function of (device, **options) that is found by name: plain data."""
    return call.attend(device=call.device, **call.options)


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


for _long_call in LONG_CALLS:
    _register(_long_call)


@contextlib.contextmanager
def _filled_memory() -> Iterator[None]:
    """Context manager: memory that torch allocates without writing to it holds NaN, not its old contents."""
    before = torch.get_deterministic_debug_mode()
    torch.set_deterministic_debug_mode("warn")  # includes filling, unless that is switched off
    try:
        yield
    finally:
        torch.set_deterministic_debug_mode(before)
