"""The ways in which programs call an attention: inside which contexts, from which thread, how often through a graph."""

from __future__ import annotations

import contextlib
import inspect
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.utils import checkpoint as checkpointing

from attention_gate.verify.case.styles import AUTOCAST, UNDER_AUTOCAST
from attention_gate.verify.target.choices import COMPILED

T = TypeVar("T")

#: Calls whose forward pass is made again in the backward pass, and how torch finds the tensors to differentiate.
_CHECKPOINTED = {"checkpoint": False, "checkpoint-reentrant": True}

#: torch.utils.checkpoint.checkpoint without its decorator, which takes seconds to import what compiles.
_CHECKPOINT = inspect.unwrap(checkpointing.checkpoint)

#: The dtype that autocast computes in, and what is made the default dtype.
_NARROW: torch.dtype = getattr(torch, AUTOCAST)


def called(caller: str, function: Callable[..., T], tensors: list[Tensor]) -> T:
    """What the function returns for the tensors, called in that way."""
    if caller in _CHECKPOINTED:
        made: T = _CHECKPOINT(function, *tensors, use_reentrant=_CHECKPOINTED[caller])
        return made
    if caller == COMPILED:
        torch._dynamo.reset()  # or else the eighth shape is not compiled any more
        return torch.compile(lambda *given: _mapped(function(*(tensor * 1.0 for tensor in given))), backend="eager")(
            *tensors
        )
    with within(caller, tensors[0].device):
        if caller == "thread":
            return in_thread(lambda: function(*tensors), tensors[0].device)
        if caller == "non-leaf":
            return function(*(tensor * 1.0 for tensor in tensors))
        return function(*tensors)


def backward(caller: str, out: Tensor, wanted: list[Tensor], upstream: Tensor) -> tuple[Tensor | None, ...]:
    """The gradients of the tensors that are wanted, asked for in that way."""
    if caller == "checkpoint-reentrant":  # which knows no torch.autograd.grad
        for tensor in wanted:
            tensor.grad = None
        out.backward(upstream)
        return tuple(tensor.grad for tensor in wanted)
    if caller == "thread":
        return in_thread(lambda: _gradients(out, wanted, upstream), out.device)
    if caller == "twice":
        _gradients(out, wanted, torch.full_like(upstream, 0.5), retain_graph=True)
    with within(caller if caller == "default-dtype" else "plain", out.device):
        return _gradients(out, wanted, upstream)


def _gradients(out: Tensor, wanted: list[Tensor], upstream: Tensor, **options: bool) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(out, wanted, upstream, allow_unused=True, **options)


def _mapped(result: Any) -> Any:
    """The result of an operation on each tensor, so that there is something to compile after the call as well."""
    return tuple(part + 0.0 for part in result) if isinstance(result, tuple) else result + 0.0


@contextlib.contextmanager
def within(caller: str, device: torch.device) -> Iterator[None]:
    """The context that such a caller calls in."""
    with contextlib.ExitStack() as stack:
        if caller == "no-grad":
            stack.enter_context(torch.no_grad())
        if caller == "inference":
            stack.enter_context(torch.inference_mode())
        if caller in UNDER_AUTOCAST:
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # of dtypes that autocast leaves alone
            stack.enter_context(torch.autocast(device.type, dtype=_NARROW))
        if caller == "saved-elsewhere":
            stack.enter_context(torch.autograd.graph.saved_tensors_hooks(_packed, _unpacked))
        if caller == "default-dtype":
            stack.callback(torch.set_default_dtype, torch.get_default_dtype())
            torch.set_default_dtype(_NARROW)
        yield


def _packed(tensor: Tensor) -> Tensor:
    return tensor.detach().clone()


def _unpacked(kept: Tensor) -> Tensor:
    return kept


def in_thread(function: Callable[[], T], device: torch.device) -> T:
    """What the function returns in a separate thread; what it raises is raised here."""
    returned: list[T] = []
    raised: list[BaseException] = []

    def run() -> None:
        try:
            if device.type == "cuda":
                torch.cuda.set_device(device)  # which every thread chooses for itself
            returned.append(function())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join()
    if raised:
        raise raised[0]
    return returned[0]
