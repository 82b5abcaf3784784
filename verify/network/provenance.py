"""What a message carried, told from its numbers: rows of key, of value, or of neither."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from verify.case import Case
from verify.network.messages import describe
from verify.network.trace import Trace

if TYPE_CHECKING:
    from verify.session import Session

_SHOWN = 4


def of_messages(session: Session, cases: Sequence[Case], trace: Trace) -> list[str]:
    """Lines on the first messages of a run: who sent what from which line, and who received it where."""
    lines = []
    for message in trace.messages:
        if message.kind != "message" or len(lines) >= _SHOWN:
            continue
        (sender, sent), (receiver, received) = message.operations
        send, receive = trace.posts(sender)[sent], trace.posts(receiver)[received]
        lines.append(
            f"rank {sender}'s {describe(send, sender)}, at {send.line}, came in by rank {receiver}'s "
            f"operation {received}, at {receive.line}"
        )
    return lines
