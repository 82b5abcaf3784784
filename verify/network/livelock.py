"""Ranks that exchange messages forever: how many operations a case can need, and which calls repeat beyond that.

A ring that steps by 2 and ends where it began never comes back to rank 1: every wait is over at once, no rank is ever
blocked, and no deadlock shows. In such a run there is always something to do, so that time alone ends it late.
"""

from __future__ import annotations

from collections.abc import Sequence

from attention_gate.verify.case.case import Case
from attention_gate.verify.network.rank_state import RankState
from attention_gate.verify.rank.network_messages import Post, describe
from attention_gate.verify.world.finding import Finding, ranks

#: Operations that carry no rows: to agree about arguments, to begin and to end.
_WITHOUT_ROWS = 500

#: Tensors that may travel by themselves: query, key, value, output, lse, D, and the gradients of the first four.
_TENSORS = 10

#: Calls in a row that are taken for a pattern at the most, and how often one must have come to be called repeating.
_LONGEST, _TIMES = 24, 8


def most_operations(cases: Sequence[Case]) -> int | None:
    """Operations that a rank can need for these calls; None without cases.

    Each rank exchanges each tensor of each branch with every other rank in both directions, once in each pass, row by
    row and head by head if it likes.
    """
    if not cases:
        return None
    return sum(_WITHOUT_ROWS + 2 * 2 * _TENSORS * _messages(case) for case in cases)


def _messages(case: Case) -> int:
    rows = -(-case.length // case.shards) + 1
    return case.shards * len(case.segment_lengths) * min(rows * case.heads, 64)


def livelock(members: Sequence[RankState], words: str) -> Finding:
    """The finding of a run with more operations than any can need."""
    most = max(members, key=lambda member: len(member.operations))
    found = repeating(members, words)
    if found is not None:
        return found
    headline = f"rank {most.rank} has started {len(most.operations):,} operations and goes on; {words}"
    last = [f"  {describe(one.post, most.rank)}, at {one.post.line}" for one in most.operations[-4:]]
    return Finding("hang", headline, ("the last of them", *last), "livelock")


def repeating(members: Sequence[RankState], words: str) -> Finding | None:
    """The finding of ranks that do the same over and over; None if none does."""
    periods = {member.rank: period for member in members if (period := _period(member))}
    if not periods:
        return None
    counts = [len(members[rank].operations) for rank in periods]
    who = ranks(sorted(periods))
    repeats = "repeats its" if len(periods) == 1 else "repeat their"
    headline = f"livelock: {who} {repeats} messages forever: {max(counts):,} operations without an end; {words}"
    details = []
    for rank, period in periods.items():
        details.append(f"rank {rank} repeats")
        details += [f"  {_call(post)}, at {post.line}" for post in period[:6]]
        details += [f"  and {len(period) - 6} more"] if len(period) > 6 else []
    return Finding("hang", headline, tuple(details), "livelock")


def _period(member: RankState) -> list[Post]:
    """The shortest run of calls that the rank's last operations repeat; empty if there is none."""
    posts = [operation.post for operation in member.operations]
    for length in range(1, _LONGEST + 1):
        window = posts[-length * _TIMES :]
        if len(window) < length * _TIMES:
            break
        if all(_same(one, other) for one, other in zip(window, window[length:], strict=False)):
            return window[:length]
    return []


def _same(one: Post, other: Post) -> bool:
    return (one.kind, one.peer, one.line, one.tag, one.group) == (
        other.kind,
        other.peer,
        other.line,
        other.tag,
        other.group,
    )


def _call(post: Post) -> str:
    """A call without what changes from time to time."""
    if post.kind == "send":
        return f"a send to rank {post.peer}"
    return f"a receive from rank {post.peer}" if post.kind == "receive" else post.call
