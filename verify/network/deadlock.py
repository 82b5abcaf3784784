"""Deadlocks: the cycle of ranks that wait for each other, or the chain that ends at a rank that is gone."""

from __future__ import annotations

from collections.abc import Sequence

from attention_gate.verify.network.matching import Matcher
from attention_gate.verify.network.rank_state import Operation, RankState
from attention_gate.verify.network.trace import Waiting
from attention_gate.verify.rank.network_messages import ANY, POINT_TO_POINT, describe
from attention_gate.verify.world.finding import Finding


def deadlock(members: Sequence[RankState], matcher: Matcher, model: str) -> tuple[Finding, tuple[Waiting, ...]]:
    """The finding of a run in which some ranks wait and no transfer can complete, and who waits for whom."""
    blocked = [member for member in members if member.state in ("wait", "poll")]
    reasons = {member.rank: _reason(member, members, matcher) for member in blocked}
    path, cycle = _follow(blocked[0].rank, reasons)
    for member in blocked[1:]:
        if not cycle:
            path, cycle = _follow(member.rank, reasons)
    chain = f"rank {path[0]}" + "".join(
        f" waits for rank {rank}" if k == 0 else f", which waits for rank {rank}" for k, rank in enumerate(path[1:])
    )
    end = members[path[-1]].state
    if not cycle and end == "end":
        chain += ", which has finished"
    details = [f"delivery: {model} ({_MODELS[model]})"]
    shown = list(dict.fromkeys(path)) + [m.rank for m in blocked if m.rank not in path]
    for rank in shown:
        if rank in reasons:
            details += [f"rank {rank} {line}" if k == 0 else f"  {line}" for k, line in enumerate(reasons[rank].lines)]
        else:
            details.append(f"rank {rank} has finished and sends nothing more")
    on_cycle = set(path) if cycle else set()
    waiting = tuple(
        Waiting(rank, reason.peer, rank in on_cycle, tuple(reason.lines)) for rank, reason in sorted(reasons.items())
    )
    return Finding("hang", f"deadlock: {chain}", tuple(details), "deadlock"), waiting


_MODELS = {
    "eager": "a send completes at once",
    "rendezvous": "a send completes when it is received",
    "stream": "as on NCCL: a group's operations run in the order of issue, each waits for the one before it, except "
    "within a batch",
}


class _Reason:
    """Why a rank waits: for which other rank, and the lines that explain it."""

    def __init__(self, peer: int, lines: list[str]) -> None:
        self.peer = peer
        self.lines = lines


def _reason(member: RankState, members: Sequence[RankState], matcher: Matcher) -> _Reason:
    wanted = member.missing[0]
    at = member.waits[-1].line if member.waits and member.state == "wait" else "a poll"
    lines = [
        f"{'waits' if member.state == 'wait' else 'polls'} at {at}",
        f"for {describe(wanted.post, member.rank)}, posted at {wanted.post.line}",
    ]
    holder = wanted
    if held_up := matcher.holding_up(wanted):
        holder = held_up[0]
        earlier = f"{describe(holder.post, member.rank)}, posted at {holder.post.line}"
        lines.append(f"which must wait for this rank's own earlier {earlier}")
    absent = matcher.absent(holder)
    if absent:
        peer = next((rank for rank in absent if members[rank].state != "end"), absent[0])
        lines.append(_what_is_missing(holder, peer))
        return _Reason(peer, lines)
    assert holder.partner is not None
    for other in holder.partner.operations:
        if other is not holder and (before := matcher.holding_up(other)):
            lines.append(
                f"whose counterpart on rank {other.rank}, {describe(other.post, other.rank)}, "
                f"is held up there by operation {before[0].post.number}"
            )
            return _Reason(other.rank, lines)
    raise AssertionError("a transfer that nothing holds up has not completed")


def _what_is_missing(operation: Operation, peer: int) -> str:
    post = operation.post
    if post.kind not in POINT_TO_POINT:
        return f"which rank {peer} has not joined"
    if post.peer == ANY:
        return "which no rank has sent"
    return f"which rank {peer} has not {'received' if post.kind == 'send' else 'sent'}"


def _follow(start: int, reasons: dict[int, _Reason]) -> tuple[list[int], bool]:
    """The ranks from one on to the next that it waits for; the cycle alone if there is one."""
    path = [start]
    while path[-1] in reasons:
        following = reasons[path[-1]].peer
        if following in path:
            circle = path[path.index(following) :]
            first = circle.index(min(circle))
            return [*circle[first:], *circle[: first + 1]], True
        path.append(following)
    return path, False
