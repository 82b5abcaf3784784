"""One stream of a rank that lags: what it is given comes late, which shows what does not wait for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

#: The numbers of the network's stream and of the one that the target is called on; its others follow.
NETWORK, CALLER = 0, 1

#: How long a lagging stream sleeps at a time, and after how long it does so again while it is given work.
SLEEP_SECONDS = 1e-3
_AGAIN_SECONDS = 0.3e-3


class Lag(TorchDispatchMode):
    """Context manager: numbers the streams that a call uses, in the order of their first use, and delays one of them.

    A stream is used where an operation of torch is issued on it, or where it becomes the current one. ``network`` is
    the simulated network's own. ``current`` returns the current stream's handle, ``sleep`` keeps the current stream
    busy for a while, and ``clock`` is the host's.
    """

    def __init__(
        self,
        delayed: int,
        network: int,
        current: Callable[[], int],
        sleep: Callable[[], None],
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__()
        self._delayed = delayed
        self._network, self._caller = network, current()
        self._others: list[int] = []
        self._current, self._sleep, self._clock = current, sleep, clock
        self._slept = float("-inf")

    @property
    def streams(self) -> int:
        """The number of streams that have been used so far."""
        return CALLER + 1 + len(self._others)

    def note(self) -> None:
        """Something is about to be issued on the current stream: if that is the one that lags, it sleeps first."""
        if self._number(self._current()) == self._delayed and self._clock() - self._slept >= _AGAIN_SECONDS:
            self._slept = self._clock()
            self._sleep()

    def _number(self, stream: int) -> int:
        if stream in (self._network, self._caller):
            return NETWORK if stream == self._network else CALLER
        if stream not in self._others:
            self._others.append(stream)
        return CALLER + 1 + self._others.index(stream)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.note()
        return function(*args, **(kwargs or {}))

    def __enter__(self) -> Lag:
        super().__enter__()
        self._set_stream = torch.cuda.set_stream

        def set_stream(stream: Any) -> None:
            self._set_stream(stream)
            self.note()

        torch.cuda.set_stream = set_stream  # kernels that are no operations of torch
        return self

    def __exit__(self, *error: Any) -> None:
        torch.cuda.set_stream = self._set_stream
        super().__exit__(*error)
