"""Mistakes in the order of streams: they show on a GPU alone, and are tried there."""

from __future__ import annotations

from typing import Any

from attention_gate.verify.mutants.mutant import Mutant

#: What the base declares.
CAPABILITIES: dict[str, Any] = {"branches": "dense", "grouped_query": False, "uneven": False}


def _mistake(name: str, mistake: str, old: str, new: str, world: int = 1, source: str = "") -> Mutant:
    return Mutant(
        name=name,
        mistake=mistake,
        base="streamed",
        changes=((old, new),),
        source=source,
        world=world,
        caught_by=("streams",),
        capabilities=CAPABILITIES,
    )


_FORWARD = '        streams.wait("messages", "caller")\n'
_GATHERED = '        streams.wait("products", "messages")\n'
_RESULT = '        streams.wait("caller", "products")\n'
_UPSTREAM = '        streams.wait("products", "caller")\n'
_GRADIENTS = '        streams.wait("messages", "products")\n'
_HOME = '        streams.wait("caller", "messages")\n'
_WAIT = '    with streams.on("messages"):\n        gathering.wait()\n'
_ADDED = '        with streams.on("messages"):\n            adding.wait()\n'

STREAM_MISTAKES: tuple[Mutant, ...] = (
    _mistake("S01", "inputs are read on a stream that does not wait for the caller's", _FORWARD, ""),
    _mistake("S02", "gathered rows are read on a stream that does not wait for the one they come on", _GATHERED, ""),
    _mistake("S03", "the result is returned on a stream that does not wait for the one it is made on", _RESULT, ""),
    _mistake("S04", "the upstream gradient is read on a stream that does not wait for the caller's", _UPSTREAM, ""),
    _mistake(
        "S05",
        "gradients are sent on a stream that does not wait for the one they are made on",
        _GRADIENTS,
        "",
        source="Cornstarch #70, a race in a backward pass",
    ),
    _mistake("S06", "gradients are returned on a stream that does not wait for the one they are made on", _HOME, ""),
    _mistake(
        "S07",
        "an operation is waited for on the caller's stream, and what it received is read on another",
        _WAIT,
        _WAIT.replace("messages", "caller"),
        world=2,
    ),
    _mistake(
        "S08",
        "a sum of gradients is waited for on the caller's stream, and read on another",
        _ADDED,
        _ADDED.replace("messages", "caller"),
        world=2,
    ),
)
