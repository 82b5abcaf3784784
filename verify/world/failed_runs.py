"""The finding in a run that did not return on every rank: which ranks crashed or hung, and where."""

from __future__ import annotations

from attention_gate.verify.rank.jobs import Died, Raised, Returned, Run, Stuck
from attention_gate.verify.world.finding import Finding, ranks
from attention_gate.verify.world.tracebacks import own_frames


def finding_of(run: Run) -> Finding | None:
    """The finding in a run that did not return on every rank."""
    if run.outcome == "returned":
        return None
    if run.outcome == "hang":
        return _hang(run)
    return _crash(run)


def _hang(run: Run) -> Finding:
    stuck = [rank for rank, reply in enumerate(run.replies) if isinstance(reply, Stuck)]
    done = [rank for rank, reply in enumerate(run.replies) if isinstance(reply, Returned)]
    finished = f"; {ranks(done)} had finished" if done else ""
    return Finding(
        "hang",
        f"{ranks(stuck)} did not finish{finished} (stopped after {run.seconds:.1f} s{_limit(run)})",
        (*_stacks(run), *_longer(run)),
    )


def _limit(run: Run) -> str:
    return f": {run.limit}" if run.limit else ""


def _longer(run: Run) -> list[str]:
    """What to do if it was not a hang, which work alone does not show."""
    return ["should it need longer: --patience SECONDS stretches all limits"] if "at work" in run.limit else []


def _crash(run: Run) -> Finding:
    failed = {rank: reply for rank, reply in enumerate(run.replies) if isinstance(reply, Raised | Died)}
    waiting = [rank for rank, reply in enumerate(run.replies) if isinstance(reply, Stuck)]
    # Ranks that raised because another one had gone say nothing: the first cause is what a reader wants.
    first = min(failed, key=lambda rank: getattr(failed[rank], "seconds", 0.0))
    reply = failed[first]
    if isinstance(reply, Raised):
        headline = f"rank {first} raised {reply.type}: {_one_line(reply.message)}"
    else:
        headline = f"rank {first} {reply.how}"
    if others := [rank for rank in failed if rank != first]:
        headline += f"; so did {ranks(others)}" if _same(failed) else f"; {ranks(others)} failed too"
    if waiting:
        headline += f"; {ranks(waiting)} {_were(waiting)} left waiting"
    details = []
    if isinstance(reply, Raised) and reply.traceback:
        details += [f"rank {first} raised at", *own_frames(reply.traceback)]
    if isinstance(reply, Died) and reply.output.strip():
        details += [f"last output of rank {first}", *_tail(reply.output)]
    if isinstance(reply, Died) and reply.stack:
        details += [f"rank {first} was at", *own_frames(reply.stack)]
    return Finding("crash", headline, tuple(details + list(_stacks(run))))


def _stacks(run: Run) -> list[str]:
    """Stacks of the ranks; ranks with the same stack are listed together."""
    places: dict[tuple[str, ...], list[int]] = {}
    lines = []
    for rank, reply in enumerate(run.replies):
        if isinstance(reply, Stuck):
            places.setdefault(tuple(own_frames(reply.stack)), []).append(rank)
    for place, where in places.items():
        lines += [f"{ranks(where)} {_were(where)} at", *place]
    for rank, reply in enumerate(run.replies):
        if isinstance(reply, Stuck) and reply.output.strip():
            lines += [f"last output of rank {rank}", *_tail(reply.output)]
    return lines


def _were(which: list[int]) -> str:
    return "was" if len(which) == 1 else "were"


def _same(failed: dict[int, Raised | Died]) -> bool:
    return len({getattr(reply, "type", None) or getattr(reply, "how", None) for reply in failed.values()}) == 1


def _tail(output: str) -> list[str]:
    return [f"  {line}" for line in output.strip().splitlines()[-6:]]


def _one_line(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 300 else line[:297] + "..."
