"""Where in the target's code an operation comes from: the function it called, the line, whether it is in a batch."""

from __future__ import annotations

import linecache
import os
import sys
from types import CodeType, FrameType

import torch

from attention_gate.verify.rank.own_files import calls_targets, is_transport

_TORCH = os.path.dirname(torch.__file__) + os.sep
#: Wrappers that torch puts around its functions, whose names say nothing.
_WRAPPERS = ("c10d_logger.py", "contextlib.py", "_contextlib.py", "_ops.py")


class Calls:
    """Reads the stack; remembers the batch that is being posted."""

    def __init__(self) -> None:
        self._places: dict[CodeType, str] = {}
        self._batch: FrameType | None = None

    def forget(self) -> None:
        """Let go of the last batch's frame, which holds the tensors of that batch."""
        self._batch = None

    def locate(self) -> tuple[str, str, bool]:
        """The function of torch.distributed that was called, the line that called it, and whether the operation
        belongs to the same batch as the one before it."""
        call, batch = "", None
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            place = self._place(frame.f_code)
            if place == "torch":
                call = frame.f_code.co_name
                if call == "batch_isend_irecv":
                    batch = frame
            elif place not in ("network", "wrapper"):
                break
            frame = frame.f_back
        same, self._batch = batch is not None and batch is self._batch, batch
        return call, "an unknown line" if frame is None else _line(frame, self._place(frame.f_code)), same

    def _place(self, code: CodeType) -> str:
        place = self._places.get(code)
        if place is None:
            file = code.co_filename
            place = "target"
            if file.endswith(_WRAPPERS):
                place = "wrapper"
            elif file.startswith(_TORCH):
                place = "torch"
            elif is_transport(file):
                place = "network"
            elif calls_targets(file):
                place = "harness"
            self._places[code] = place
        return place


def _line(frame: FrameType, place: str) -> str:
    file, number = frame.f_code.co_filename, frame.f_lineno
    if place == "harness":  # only torch's own code lies between the gate's call and the operation
        return "torch's own code, called by autograd"
    text = linecache.getline(file, number).strip()
    return f"{os.path.basename(file)}:{number} in {frame.f_code.co_name}" + (f": {text}" if text else "")
