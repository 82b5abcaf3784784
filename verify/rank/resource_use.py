"""Work and memory of a pass on one rank, measured while the target runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: Operations that only make, move or reorder numbers; all others compute.
# fmt: off
_MOVES = frozenset((
    "empty", "new_empty", "new_zeros", "new_full", "zeros", "ones", "full", "zeros_like", "ones_like",
    "empty_like", "full_like", "arange", "rand", "randn", "copy_", "clone", "_to_copy", "to", "cat", "stack",
    "index_select", "index", "index_put_", "index_copy_", "index_add_", "gather", "scatter_", "select", "slice",
    "narrow", "split", "split_with_sizes", "chunk", "unbind", "detach", "detach_", "alias", "view",
    "_unsafe_view", "reshape", "as_strided", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze",
    "repeat", "fill_", "zero_", "set_", "resize_", "lift_fresh", "_local_scalar_dense", "constant_pad_nd",
    "flip", "roll", "contiguous", "pin_memory",
))
# fmt: on


class Work(TorchDispatchMode):
    """Context manager: adds up how much is computed, products of matrices as multiplications, all else as elements."""

    def __init__(self, add: Callable[[int], None]) -> None:
        super().__init__()
        self._add = add

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        name = function._schema.name.rpartition("::")[2]
        if name not in _MOVES:
            self._add(_amount(name, args, result))
        return result


def _amount(name: str, args: Any, result: Any) -> int:
    tensors = [one for one in args if isinstance(one, torch.Tensor)]
    outputs = [
        one for one in (result if isinstance(result, tuple | list) else [result]) if isinstance(one, torch.Tensor)
    ]
    if "attention" in name and len(tensors) >= 2:
        return tensors[0].numel() * tensors[1].shape[-2]
    if name in ("mm", "bmm", "addmm", "baddbmm", "matmul", "mv", "dot") and tensors and outputs:
        return outputs[0].numel() * tensors[-1].shape[-2 if tensors[-1].dim() > 1 else 0]
    return max((one.numel() for one in (*tensors, *outputs)), default=0)


class Memory:
    """Context manager: the peak of allocated bytes, as the allocator reports them."""

    def __init__(self) -> None:
        self.peak = 0
        self.held = 0
        self._profile = torch.autograd.profiler.profile(profile_memory=True)

    def __enter__(self) -> Memory:
        self._profile.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._profile.__exit__(*error)
        results = self._profile.kineto_results
        assert results is not None
        events: list[Any] = [event for event in results.events() if event.name() == "[memory]"]
        for event in sorted(events, key=lambda event: event.start_ns()):
            self.held += event.nbytes()
            self.peak = max(self.peak, self.held)
