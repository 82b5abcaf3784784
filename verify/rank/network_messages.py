"""Messages between a rank's endpoint and the network: posted operations, waits, completed operations."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

#: A receive from any rank, whichever sends first.
ANY = -1

POINT_TO_POINT = ("send", "receive")


class Piece(NamedTuple):
    """The form of one tensor on the wire: its dtype's name and its shape."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(getattr(torch, self.dtype).itemsize) * self.elements

    def __str__(self) -> str:
        return f"{self.dtype} {self.shape}"


class Post(NamedTuple):
    """One operation as its rank posted it.

    ``number`` counts the rank's operations from 0. ``kind`` is "send", "receive" or the name of a collective;
    ``call`` the function that the target called. ``ranks`` are the global ranks of the communicator ``group``;
    ``peer`` is a global rank, ANY, or the root of a collective (-1: it has none). ``batch`` is the same number for
    all operations of one batch. ``stage`` is "forward" or "backward", ``work`` how much the rank had computed by then.
    """

    number: int
    kind: str
    call: str
    group: str
    ranks: tuple[int, ...]
    peer: int
    tag: int
    sends: tuple[Piece, ...]
    receives: tuple[Piece, ...]
    reduction: str
    batch: int
    line: str
    stage: str
    work: int


class Wait(NamedTuple):
    """A wait for operations, by their numbers; ``posted`` operations had been posted before it.

    Without numbers: a pass begins or ends here.
    """

    numbers: tuple[int, ...]
    posted: int
    line: str
    stage: str
    work: int


#: Bytes of the tensors that an operation sends, in the order of Post.sends.
Contents = list[bytes]


class Signal(NamedTuple):
    """Sent by a rank that blocks or has finished: everything since its last signal.

    ``state`` is "wait", "poll" (asks whether it is done, and will go on either way), "end" or "failed" (it raised).
    ``contents`` has the present contents of every operation in flight. ``wanted`` are the operations that it
    waits for, ``touched`` those whose buffers were written to while they were in flight.
    """

    state: str
    log: list[Post | Wait]
    contents: dict[int, Contents]
    wanted: tuple[int, ...]
    touched: tuple[int, ...] = ()
    unwaited: tuple[int, ...] = ()
    remarks: tuple[str, ...] = ()


class Wake(NamedTuple):
    """To a rank that waits or polls: the operations that have completed since, with what they received."""

    done: dict[int, Contents]
    sources: dict[int, int]


class Stop(NamedTuple):
    """To a rank that waits or polls: the run is over."""

    reason: str


def describe(post: Post, rank: int) -> str:
    """An operation in words, as in "operation 3, isend to rank 1 of float64 (1, 2, 1, 3)"."""
    name = post.call
    if post.kind in POINT_TO_POINT and post.call == "batch_isend_irecv":
        name = f"{'isend' if post.kind == 'send' else 'irecv'} of a batch"
    text = f"operation {post.number}, {name}"
    if post.kind == "send":
        text += f" to rank {post.peer} of {post.sends[0]}"
    elif post.kind == "receive":
        text += f" from {'any rank' if post.peer == ANY else f'rank {post.peer}'} of {post.receives[0]}"
    else:
        if post.peer >= 0:
            text += f" with root {post.peer}"
        shapes = list(dict.fromkeys(map(str, post.sends or post.receives)))
        if shapes:
            text += f" of {' and '.join(shapes[:3])}{' …' if len(shapes) > 3 else ''}"
        text += f" among ranks {', '.join(map(str, post.ranks))}"
    return text
