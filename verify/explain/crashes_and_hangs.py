"""Explains hangs and crashes: what the ranks were at, and in which groups the same case does not fail."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from attention_gate.verify.case.lengths import with_length
from attention_gate.verify.checks.results import Example
from attention_gate.verify.explain.wrong_values import of_values
from attention_gate.verify.world.finding import Finding

if TYPE_CHECKING:
    from attention_gate.verify.case.case import Case
    from attention_gate.verify.judge.session import Session


def of_conduct(session: Session, example: Example, finding: Finding) -> tuple[str, ...]:
    """Sentences on why ranks wait for each other, or fail in some groups only."""
    if finding.outcome == "hang":
        stacks = _stacks(finding)
        if finding.headline.startswith("ranks ") and stacks and all(_is_in(stack, "send") for stack in stacks):
            return ("every rank that hangs is in a blocking send: no rank receives, and the transport does not buffer",)
        if sentences := _with_other_values(session, example.case):
            return sentences
    if example.case.group is not None:
        return _in_other_groups(session, example.case)
    return _with_equal_shards(session, example, finding)


def _with_other_values(session: Session, case: Case) -> tuple[str, ...]:
    """Whether the same call of other values returns: what is sent then depends on the values."""
    with session.worlds.hurried():
        for seed, data in enumerate(("offset", "sharp", "zeros"), start=case.seed + 1):
            if _returns(session, case.replace(data=data, seed=seed)):
                return (
                    "the same call of other values returns: whether a rank communicates depends on its own data, "
                    "which the other ranks do not know",
                )
    return ()


def _with_equal_shards(session: Session, example: Example, finding: Finding) -> tuple[str, ...]:
    """What is wrong where shards differ in size may show in values where they do not."""
    case = example.case
    if case.length % case.shards == 0 or case.terms:  # the formulas know no optional terms
        return ()
    length = (case.length // case.shards + 1) * case.shards
    even = session.fitted(with_length(case, length))
    sentences = of_values(session, replace(example, case=even), finding)
    return tuple(f"with equal shards (length={length}) it returns, and {sentence}" for sentence in sentences)


def _in_other_groups(session: Session, case: Case) -> tuple[str, ...]:
    assert case.group is not None
    with session.worlds.hurried():
        if _returns(session, case.replace(group=tuple(range(case.shards)))):
            return (
                "the same case does not fail in the group of the first ranks, whose ranks in the group and in the "
                "world are the same: the target probably confuses ranks in the group with global ranks",
            )
        if _returns(session, case.replace(group=None, world_size=case.shards)):
            return ("the same case does not fail where the group is the whole world: ranks outside it are waited for",)
    return ()


def _returns(session: Session, case: Case) -> bool:
    _, finding = session.attend(case)
    return finding is None


def _stacks(finding: Finding) -> list[list[str]]:
    """The frames of each rank that was stuck, innermost last."""
    stacks: list[list[str]] = []
    for line in finding.details:
        if " was at" in line or " were at" in line:
            stacks.append([])
        elif stacks and line.lstrip().startswith("File "):
            stacks[-1].append(line)
    return stacks


def _is_in(stack: list[str], function: str) -> bool:
    return any(line.rstrip().endswith(f", in {function}") for line in stack)
