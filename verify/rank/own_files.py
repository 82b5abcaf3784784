"""Which frames of a stack are the harness's own: those that call the target, and those that carry its messages."""

from __future__ import annotations

import os

_RANK = os.path.dirname(os.path.abspath(__file__)) + os.sep
_WORLD = os.path.join(os.path.dirname(os.path.dirname(_RANK)), "world") + os.sep

#: What runs below the target when it communicates on the simulated network, or is measured.
_TRANSPORT = tuple(
    f"{_RANK}{name}.py"
    for name in (
        "simulated_backend",
        "staged_backend",
        "endpoint",
        "buffers",
        "cuda_buffers",
        "stream_lag",
        "call_sites",
        "collectives",
        "channel",
        "resource_use",
    )
)


def is_transport(file: str) -> bool:
    """Whether a frame of that file carries a message of the target's on the simulated network."""
    return file in _TRANSPORT


def calls_targets(file: str) -> bool:
    """Whether a frame of that file belongs to the harness around the target's call."""
    return file.startswith((_RANK, _WORLD)) and not is_transport(file)
