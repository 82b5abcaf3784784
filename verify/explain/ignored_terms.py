"""Explains wrong values of a case with optional terms: which of them the target ignores or takes otherwise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.lengths import with_length
from attention_gate.verify.checks.results import Example
from attention_gate.verify.explain.failing_case import Setting
from attention_gate.verify.explain.fit import fits
from attention_gate.verify.explain.lengths_otherwise import length_meanings
from attention_gate.verify.explain.terms_otherwise import WORDS, Meaning, meanings, other_cases, without
from attention_gate.verify.explain.wrong_values import returned, setting_of
from attention_gate.verify.judge.tensor_names import GRADIENTS, OF_ALL_RANKS
from attention_gate.verify.world.finding import Finding

if TYPE_CHECKING:
    from attention_gate.verify.judge.session import Session


def of_terms(session: Session, example: Example, finding: Finding) -> tuple[str, ...]:
    """A sentence on the term without which, or with whose other meaning, the reference gives the target's values.

    It is given only if it fits longer cases, too: one that fits a few elements may fit by chance.
    """
    subject = finding.tensor if finding.tensor in ("out", "lse") else "out"
    if finding.tensor in (*GRADIENTS, *OF_ALL_RANKS):
        subject = "gradients"
    judged = GRADIENTS if subject == "gradients" else (subject,)
    noun = {"out": "the output equals", "lse": "the log-sum-exp equals"}.get(subject, "the gradients equal")
    refuted: set[str] = set()
    confirmed: dict[str, None] = {}
    for case in _longer(session, example.case):
        found = _fitting(session, case, judged)
        if found is None:
            break
        refuted |= {words for words, fit in found.items() if fit is False}
        confirmed |= dict.fromkeys(words for words, fit in found.items() if fit)
    return tuple(f"{noun} the reference {words}" for words in confirmed if words not in refuted)[:1]


def _longer(session: Session, case: Case) -> Iterator[Case]:
    """The case, and the same with more rows on each rank: the last document is longer by them."""
    yield case
    for rows in (3, 5, 8):
        yield session.fitted(
            with_length(case, case.length + rows * case.shards).replace(
                heads=2 * case.kv_heads if case.heads == case.kv_heads and session.target.grouped_query else case.heads,
                seed=case.seed + rows,
            )
        )


@np.errstate(all="ignore")  # wrong meanings divide by 0
def _fitting(session: Session, case: Case, judged: tuple[str, ...]) -> dict[str, bool | None] | None:
    """Whether each other meaning gives what the target returned, None where this case cannot tell.

    None as a whole if the target did not return.
    """
    got = returned(session, case)
    if got is None or not set(judged) & set(got):
        return None
    setting = setting_of(session, case)
    names = tuple(name for name in judged if name in got)
    right = session.answer(case).expected
    found: dict[str, bool | None] = {}
    for words, results in _meanings(session, setting, judged):
        answer = results()
        if not all(name in answer for name in names):
            continue
        same = all(np.array_equal(answer[name], right[name]) for name in names)
        found[words] = None if same else fits(setting, got, {name: answer[name] for name in names}, names)
    return found


def _meanings(session: Session, setting: Setting, judged: tuple[str, ...]) -> Iterator[Meaning]:
    """What else the case may have been taken for, in words, and what that gives."""
    yield from length_meanings(setting)
    case = setting.case
    ends = tuple(int(owned[-1]) + 1 for owned in setting.positions if len(owned))
    for words, other in itertools.chain(_others(case), other_cases(case, ends)):
        if judged == ("lse",):  # the output is right, so the term is not ignored as a whole
            words = words.removesuffix(": it is accepted and ignored")
        yield words, partial(_expected, session, other)
    yield from meanings(setting)


def _expected(session: Session, case: Case) -> dict[str, np.ndarray]:
    return session.answer(case).expected


def _others(case: Case) -> Iterator[tuple[str, Case]]:
    """The case with a term left out, or meant as libraries differ on it."""
    taken = [term for term in case.terms if term in WORDS]
    for term in taken:
        yield f"without {WORDS[term]}: it is accepted and ignored", without(case, [term])
    if case.window is not None:
        left, right = case.window
        if left is not None:
            yield (
                f"with a window of ({left + 1}, {right}): it holds one key more",
                case.replace(window=(left + 1, right)),
            )
        if left:
            yield (
                f"with a window of ({left - 1}, {right}): it holds one key less",
                case.replace(window=(left - 1, right)),
            )
    if len(taken) > 1:
        yield "without any of its optional terms", without(case, taken)
