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
from attention_gate.verify.explain.failing_case import Meaning, Setting
from attention_gate.verify.explain.fit import fits, is_far
from attention_gate.verify.explain.lengths_otherwise import length_meanings
from attention_gate.verify.explain.terms_otherwise import WORDS, OtherCase, meanings, other_cases, without
from attention_gate.verify.explain.wrong_values import returned, setting_of
from attention_gate.verify.judge.tensor_names import GRADIENTS, OF_ALL_RANKS
from attention_gate.verify.target.choices import CONVENTIONS
from attention_gate.verify.world.finding import Finding

if TYPE_CHECKING:
    from attention_gate.verify.judge.session import Session


#: What a target may declare of its lse otherwise than the contract.
_OF_LSE = ("lse_sink", "lse_slopes")


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
    """The case, and the same with more rows on each rank: the last document is longer by them.

    Normal values stand in for huge ones, of which a softmax takes one key alone and wrong meanings overflow.
    """
    if case.data == "huge":
        case = case.replace(data="normal")
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
    found: dict[str, bool | None] = {}
    for words, results in _meanings(session, setting, judged):
        answer = results()
        if not all(name in answer for name in names):
            continue
        found[words] = fits(setting, got, answer, names) if is_far(setting, answer, names) else None
    return found


def _meanings(session: Session, setting: Setting, judged: tuple[str, ...]) -> Iterator[Meaning]:
    """What else the case may have been taken for, in words, and what that gives; the likeliest first."""
    case, of_cases = setting.case, _meanings_of_cases(session, setting, judged)
    if judged == ("lse",) and any(getattr(session.target, name) != CONVENTIONS[name][0] for name in _OF_LSE):
        return of_cases  # the others give the lse as the contract means it
    as_many = case.query_length is None and case.joint is None
    first = (of_cases, length_meanings(setting)) if as_many else (length_meanings(setting), of_cases)
    return itertools.chain(*first, meanings(setting))


def _meanings_of_cases(session: Session, setting: Setting, judged: tuple[str, ...]) -> Iterator[Meaning]:
    case = setting.case
    ends = tuple(int(owned[-1]) + 1 for owned in setting.positions if len(owned))
    for words, change in itertools.chain(_others(case), other_cases(case, ends)):
        try:
            other = change()
        except ValueError:  # no case has that beside the rest
            continue
        if judged != ("out",):  # the output is right, so the term is not ignored as a whole
            words = words.removesuffix(": it is accepted and ignored")
        yield words, partial(_expected, session, other)


def _expected(session: Session, case: Case) -> dict[str, np.ndarray]:
    return session.answer(case).expected


def _others(case: Case) -> Iterator[OtherCase]:
    """The case with a term left out, or meant as libraries differ on it."""
    taken = [term for term in case.terms if term in WORDS]
    for term in taken:
        yield f"without {WORDS[term]}: it is accepted and ignored", partial(without, case, [term])
    if case.window is not None:
        left, right = case.window
        for step, words in ((1, "more"), (-1, "less")):
            if left is not None and left + step >= 0:
                window = (left + step, right)
                yield f"with a window of {window}: it holds one key {words}", partial(case.replace, window=window)
    if len(taken) > 1:
        yield "without any of its optional terms", partial(without, case, taken)
