"""The buffers of one operation on the simulated network: read, poisoned and filled, in host memory."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Protocol

import torch

from attention_gate.verify.rank.network_messages import Contents


class Buffers(Protocol):
    """What the network does to the tensors of one operation, from the time that it is posted until it is waited for."""

    #: Whether a buffer that is sent is received into as well.
    in_place: bool

    def first(self) -> Contents:
        """The contents of what is sent, as of when it was posted."""

    def present(self) -> Contents:
        """The contents of what is sent, now."""

    def touched(self, *, sends: bool) -> bool:
        """Whether the target has written to a buffer since: to what is received into, and to what it ``sends``."""

    def fill(self, arrived: Contents | None, *, completed: bool) -> None:
        """The operation is waited for, or seen to be ``completed``: what was received is in its buffers from now on."""

    def join(self) -> None:
        """It is waited for once more, perhaps on another stream."""

    def overwritten(self) -> bool:
        """Whether a stream that did not wait for the operation wrote to what is sent; asked at the end of the call."""

    def let_go(self) -> None:
        """The tensors are the target's alone again."""


class HostBuffers:
    """Buffers in host memory: what is written is there at once."""

    def __init__(self, sends: Sequence[torch.Tensor], receives: Sequence[torch.Tensor]) -> None:
        self._sends, self._receives = tuple(sends), tuple(receives)
        self._first = self.present()
        self.in_place = overlapping(sends, receives)
        for tensor in receives:  # past autograd, as a real transport writes
            _write(tensor, _poison_of(tensor))

    def first(self) -> Contents:
        """What is sent, as of when it was posted."""
        return self._first

    def present(self) -> Contents:
        """What is sent, now."""
        return [_contents(tensor) for tensor in self._sends]

    def touched(self, *, sends: bool) -> bool:
        """Whether the target has written to a buffer since."""
        changed = sends and any(now != then for now, then in zip(self.present(), self._first, strict=False))
        return changed or any(_contents(tensor) != _poison_of(tensor) for tensor in self._receives)

    def fill(self, arrived: Contents | None, *, completed: bool) -> None:
        """What was received is in its buffers from now on."""
        for tensor, received in zip(self._receives, arrived or (), strict=False):
            _write(tensor, received)

    def join(self) -> None:
        """It is waited for once more: it is there."""

    def overwritten(self) -> bool:
        """Whether a stream that did not wait for the operation wrote to what is sent."""
        return False

    def let_go(self) -> None:
        """The tensors are the target's alone again."""
        self._sends = self._receives = ()


def poison_byte(dtype: torch.dtype) -> int:
    """The byte that a buffer of that dtype is poisoned with: it makes NaN, True, or a conspicuous integer."""
    if dtype == torch.bool:
        return 0x01
    return 0xFF if dtype.is_floating_point or dtype.is_complex else 0xA5


def overlapping(sends: Sequence[torch.Tensor], receives: Sequence[torch.Tensor]) -> bool:
    """Whether one of the first shares memory with one of the second."""
    return any(_overlap(one, other) for one in sends for other in receives)


def _contents(tensor: torch.Tensor) -> bytes:
    size = tensor.numel() * tensor.element_size()
    return ctypes.string_at(tensor.data_ptr(), size) if size else b""


def _poison_of(tensor: torch.Tensor) -> bytes:
    return bytes([poison_byte(tensor.dtype)]) * (tensor.numel() * tensor.element_size())


def _write(tensor: torch.Tensor, contents: bytes) -> None:
    if contents:
        ctypes.memmove(tensor.data_ptr(), contents, len(contents))


def _overlap(one: torch.Tensor, other: torch.Tensor) -> bool:
    if not one.numel() or not other.numel():
        return False
    start, stop = one.data_ptr(), one.data_ptr() + one.numel() * one.element_size()
    begin, end = other.data_ptr(), other.data_ptr() + other.numel() * other.element_size()
    return start < end and begin < stop
