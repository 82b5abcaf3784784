"""Two streams that parts take turns on: the next part's kernels fill the processors that one's end leaves idle."""

from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache

import torch


class TwoStreams:
    """The current stream and one beside it: even parts run on the one, odd parts on the other.

    What is made in a part's turn is of its stream and freed there; what parts share is made before the first turn and
    read after `join`.
    """

    def __init__(self, device: torch.device, parts: int) -> None:
        self._streams: tuple[torch.cuda.Stream, torch.cuda.Stream] | None = None
        if device.type == "cuda" and parts > 1:
            current = torch.cuda.current_stream(device)
            self._streams = current, _beside(device, current.cuda_stream)
            self._streams[1].wait_stream(self._streams[0])

    def of(self, part: int) -> AbstractContextManager[object]:
        """Return a context in which a part's stream is the current one."""
        return torch.cuda.stream(self._streams[part % 2]) if self._streams else nullcontext()

    def join(self) -> None:
        """Make what follows on the first stream wait for all that was done on the other."""
        if self._streams:
            self._streams[0].wait_stream(self._streams[1])


@lru_cache(maxsize=64)
def _beside(device: torch.device, _current: int) -> torch.cuda.Stream:
    """Return a stream that belongs to another one: passes on two streams do not wait for each other."""
    return torch.cuda.Stream(device)
