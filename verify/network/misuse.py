"""Findings about misused operations: mismatches, messages to oneself, operations that are left over at the end."""

from __future__ import annotations

from collections.abc import Sequence

from attention_gate.verify.network.rank_state import RankState
from attention_gate.verify.rank.collectives import disagreement
from attention_gate.verify.rank.network_messages import Post, describe
from attention_gate.verify.world.finding import Finding


def mismatch(sender: int, send: Post, receiver: int, receive: Post, waiting: Sequence[Post] = ()) -> Finding | None:
    """A message and a buffer that do not fit: another tag, another dtype or another number of elements.

    ``waiting`` are the messages or buffers next in line: if one of them fits, the order is the mistake.
    """
    if send.tag != receive.tag:
        return _tags(sender, send, receiver, receive)
    sent, expected = send.sends[0], receive.receives[0]
    if sent.dtype != expected.dtype:
        what = "dtype"
    elif sent.elements != expected.elements:
        what = "number of elements"
    else:
        return None
    return Finding(
        "fail",
        f"rank {sender} sends {sent} to rank {receiver}, which receives it into {expected}: another {what}",
        (
            f"rank {sender}: {describe(send, sender)}",
            f"  at {send.line}",
            f"rank {receiver}: {describe(receive, receiver)}",
            f"  at {receive.line}",
            "messages between two ranks are matched in the order of posting; a real transport reads such a message as "
            "other numbers, fills the buffer in part, or crashes",
            *_swapped(sender, send, receiver, receive, waiting),
        ),
        "wire",
    )


def _tags(sender: int, send: Post, receiver: int, receive: Post) -> Finding:
    """Two that meet by their order alone, as under "stream", and would not by their tags."""
    return Finding(
        "fail",
        f"rank {sender} sends with tag {send.tag}, but rank {receiver} receives with tag {receive.tag}",
        (
            f"rank {sender}: {describe(send, sender)}",
            f"  at {send.line}",
            f"rank {receiver}: {describe(receive, receiver)}",
            f"  at {receive.line}",
            "NCCL ignores tags. It matches messages between two ranks in the order of posting: the first send goes "
            "into the first receive buffer",
        ),
        "wire",
    )


def _swapped(sender: int, send: Post, receiver: int, receive: Post, waiting: Sequence[Post]) -> list[str]:
    for other in waiting:
        if other.kind == "send" and (other.sends[0].dtype, other.sends[0].elements) == (
            receive.receives[0].dtype,
            receive.receives[0].elements,
        ):
            return [
                f"operation {other.number} of rank {sender}, sent next, is the message that fits this buffer: "
                "receives are posted in another order than sends"
            ]
        if other.kind == "receive" and (other.receives[0].dtype, other.receives[0].elements) == (
            send.sends[0].dtype,
            send.sends[0].elements,
        ):
            return [
                f"operation {other.number} of rank {receiver}, posted next, is the buffer for this message: "
                "receives are posted in another order than sends"
            ]
    return []


def written_to(rank: int, post: Post, line: str) -> Finding:
    """A buffer that the target wrote to while its operation was in flight."""
    what = "sends" if post.kind == "send" else "receives into"
    return Finding(
        "fail",
        f"rank {rank} writes to a buffer that {describe(post, rank)} still {what}"
        if post.kind in ("send", "receive")
        else f"rank {rank} writes to a buffer of {describe(post, rank)} before its wait",
        (
            f"  posted at {post.line}",
            f"  detected at {line or 'the end of the call'}",
            "until its wait returns, an operation's buffers may neither be read nor be written",
        ),
        "wire",
    )


def different_collectives(count: int, rank: int, post: Post, other_rank: int, other: Post) -> Finding | None:
    """Two ranks of a group in collectives that do not belong together."""
    index, other_index = post.ranks.index(rank), other.ranks.index(other_rank)
    what = disagreement(index, post, other_index, other)
    if what is None:
        return None
    one, two = sorted(((rank, post), (other_rank, other)), key=lambda pair: pair[0])
    names = (
        f"rank {one[0]} is in {one[1].call}, rank {two[0]} in {two[1].call}"
        if what == "the collective"
        else f"ranks {one[0]} and {two[0]} differ in {what} of {one[1].call}"
    )
    return Finding(
        "fail",
        f"ranks in different collectives: {names}" if what == "the collective" else names,
        (
            f"collective {count} of the group of ranks {', '.join(map(str, post.ranks))}",
            *(
                line
                for r, p in (one, two)
                for line in (
                    f"rank {r}: {describe(p, r)}" + (f", reduction {p.reduction}" if p.reduction else ""),
                    f"  at {p.line}",
                )
            ),
        ),
        "wire",
    )


def to_itself(rank: int, post: Post) -> Finding:
    """A message from a rank to itself."""
    verb = "sends to" if post.kind == "send" else "receives from"
    return Finding(
        "fail",
        f"rank {rank} {verb} itself",
        (
            f"rank {rank}: {describe(post, rank)}",
            f"  at {post.line}",
            "a transport may raise or wait forever; in a group of one there is nothing to communicate",
        ),
        "wire",
    )


def left_behind(members: Sequence[RankState]) -> Finding | None:
    """Messages that no rank received and handles that no rank waited for, once every rank has ended."""
    for member in members:
        if member.remarks:
            return Finding("fail", f"rank {member.rank}: {member.remarks[0]}", (), "wire")
    for member in members:
        for operation in member.operations:
            post = operation.post
            if post.kind == "send" and not operation.through:
                return Finding(
                    "fail",
                    f"a message from rank {member.rank} to rank {post.peer} is never received",
                    (f"rank {member.rank}: {describe(post, member.rank)}", f"  at {post.line}"),
                    "wire",
                )
    for member in members:
        left = [member.operations[number].post for number in member.unwaited]
        if left:
            alike = [m.rank for m in members if m.unwaited]
            return Finding(
                "fail",
                f"rank {member.rank} never waits for the handle of {describe(left[0], member.rank)}",
                (
                    f"  posted at {left[0].line}",
                    *([f"  nor for {len(left) - 1} more of its operations"] if len(left) > 1 else []),
                    f"on {len(alike)} of {len(members)} ranks; until its wait returns, an operation's buffers may "
                    "neither be read nor be written",
                ),
                "wire",
            )
    return None
