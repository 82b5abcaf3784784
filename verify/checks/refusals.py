"""Bad arguments raise on every rank, also when only one rank got them, and the next good call works."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np
from hypothesis import strategies as st

from attention_gate.verify.case.bad_arguments import BAD_ARGUMENTS
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.from_bytes import integers, together
from attention_gate.verify.case.options import Space
from attention_gate.verify.checks.check import Axes, Check, Parameters, plain
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.rank.procedures import Refusal
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.failed_runs import finding_of
from attention_gate.verify.world.finding import Finding, ranks

_CALLS = itertools.count()

#: How a program can meet this promise.
_UNKNOWN = "a plain signature, without **options that are never read, makes Python raise on every rank"
_TOGETHER = (
    "all ranks must refuse together: exchange first what each found in its own arguments (all_gather_object of a "
    "message, or None), then raise on all or on none"
)

#: Mistakes that every profile gives to one rank alone: in a tensor, in the branches and in a number.
_TELLING = ("key-rows", "segment-zero", "scale-text")


def _refusal(session: Session, case: Case, parameters: Parameters) -> Verdict:
    mistake = BAD_ARGUMENTS[parameters["mistake"]]
    if mistake.differs and case.shards == 1:
        return session.judged(case, names=("out",))  # with one rank nothing can differ, so the call is good
    where = None if mistake.unbound else parameters["where"]
    where = 0 if mistake.differs and where is None else where
    shards = tuple(range(case.shards)) if where is None else (where % case.shards,)
    made_by = "every rank" if len(shards) == case.shards else ranks([case.ranks[shard] for shard in shards]) + " only"
    detail = f"{mistake.words} on {made_by}"
    if session.device == "cuda" and session.target.scales:
        # There only the first call of each signature need be refused everywhere: so each has its own scale.
        case = case.replace(scale=0.5 + next(_CALLS) / 2**30)
    run = session.run("refuse", case, mistake=parameters["mistake"], shards=shards)
    if finding := finding_of(run):
        alone = (_TOGETHER,) if finding.outcome == "hang" and len(shards) < case.shards else ()
        return Verdict(np.inf, Finding(finding.outcome, f"{detail}: {finding.headline}", (*alone, *finding.details)))
    refusals: dict[int, Refusal] = {rank: run.value(rank) for rank in case.ranks}
    if accepted := [rank for rank, refusal in refusals.items() if refusal.type is None]:
        remedy = (_UNKNOWN,) if mistake.unbound else ()
        headline = f"{detail}: {ranks(accepted)} accepted it and returned a result"
        return Verdict(np.inf, Finding("fail", headline, remedy))
    if wrong := [rank for rank, refusal in refusals.items() if not refusal.right_kind]:
        first = refusals[wrong[0]]
        return Verdict(
            np.inf,
            Finding(
                "fail",
                f"{detail}: {ranks(wrong)} raised {first.type}, but the contract asks for ValueError or TypeError",
                (f"{first.type}: {first.message[:300]}",),
            ),
        )
    if silent := [rank for rank, refusal in refusals.items() if not refusal.message.strip()]:
        return Verdict(np.inf, Finding("fail", f"{detail}: the exception on {ranks(silent)} has an empty message"))
    verdict = session.judged(case, names=("out",))
    if verdict.finding:
        after = f"after {detail}, a good call went wrong: {verdict.finding.headline}"
        return Verdict(verdict.budget_used, Finding(verdict.finding.outcome, after, verdict.finding.details))
    return Verdict(0.0)


def _mistakes(session: Session) -> st.SearchStrategy[Parameters]:
    drawn = together(
        mistake=st.sampled_from(tuple(BAD_ARGUMENTS)),
        where=st.one_of(st.none(), integers(0, 3)),
    )
    return drawn.map(lambda one: one | {"where": None} if BAD_ARGUMENTS[str(one["mistake"])].unbound else one)


def _once(session: Session, axes: Space) -> list[tuple[Axes, Parameters]]:
    """A few kinds of mistake on one rank alone; each on every rank, a difference on one; then the others on one alone.

    One rank alone shows what the ranks do not tell each other; a few kinds stand for all there. An omission shows where
    every rank has the mistake, as one rank alone also differs from the others, which is refused as well. It shows on
    few ranks, and these are quick.
    """
    ranks = tuple(axes["ranks"])
    several = tuple(number for number in ranks if number > 1)
    everywhere, differing = (
        [name for name, bad in BAD_ARGUMENTS.items() if bad.differs is differs] for differs in (False, True)
    )
    others = [name for name in everywhere if name not in _TELLING and not BAD_ARGUMENTS[name].unbound]
    alone = (*differing, *others) if several else ()
    found: list[tuple[Axes, Parameters]] = []
    if several:
        found += [({"ranks": several}, {"mistake": name, "where": where}) for where, name in enumerate(_TELLING)]
    found += [({"ranks": ranks[:2]}, {"mistake": name, "where": None}) for name in everywhere]
    found += [({"ranks": several}, {"mistake": name, "where": where % 4}) for where, name in enumerate(alone)]
    return found


def _axes(target: Target, world_sizes: Sequence[int]) -> Axes:
    shards = ("even", "uneven") if target.uneven else ("even",)
    heads = ("several",)
    return plain(shards=shards, heads=heads, data=("normal",), scale=("default",))(target, world_sizes)


REFUSALS = Check(
    name="refusals",
    promise="raises ValueError or TypeError for bad arguments on every rank, and still works afterwards",
    builds_on=("forward",),
    axes=_axes,
    examine=_refusal,
    parameters=_mistakes,
    once=_once,
    weight=1.9,
    least=1 + len(BAD_ARGUMENTS) + len(_TELLING),
    needs=lambda target, sizes: "" if target.refusals else "the target declares that it refuses no bad arguments",
)
