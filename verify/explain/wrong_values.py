"""Explains wrong values: the formulas that give them, in the failing case and in larger ones."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.extents import LARGEST_SMALL
from attention_gate.verify.case.lengths import over
from attention_gate.verify.checks.results import Example
from attention_gate.verify.explain.failing_case import Array, Guess, Setting
from attention_gate.verify.explain.fit import fits, is_far
from attention_gate.verify.explain.wrong_gradients import backward_guesses
from attention_gate.verify.explain.wrong_outputs import SWEEPING, forward_guesses, lse_guesses
from attention_gate.verify.judge.comparison import assemble, shares
from attention_gate.verify.judge.oracle import inputs_of
from attention_gate.verify.judge.tensor_names import GRADIENTS
from attention_gate.verify.world.finding import Finding

if TYPE_CHECKING:
    from attention_gate.verify.judge.session import Session


#: Longer sequences are not explained: the formulas are tried one by one.
LONGEST = 160

#: No more formulas than this are named.
_NAMED = 3

Guesses = Callable[[Setting], Iterator[Guess]]

_SUBJECTS: dict[str, tuple[str, Guesses]] = {
    "out": ("the output equals the reference with {}", forward_guesses),
    "lse": ("the log-sum-exp equals the reference's {}", lse_guesses),
    "gradients": ("the gradients equal the reference's {}", backward_guesses),
}


def of_values(session: Session, example: Example, finding: Finding) -> tuple[str, ...]:
    """Sentences on the formulas that give the target's values in the case and in larger ones."""
    case = example.case
    if case.length > LONGEST:
        return ()
    got = returned(session, case)
    if got is None:
        return ()
    if sentences := _missing_gradients(session, case, got):
        return sentences
    setting = setting_of(session, case)
    subject = _subject(setting, got)
    if subject is None:
        return ()
    sentence, guesses = _SUBJECTS[subject]
    words = _confirmed(session, case, subject, guesses, fitting(setting, got, subject, guesses))
    words = [word for word in words if word not in SWEEPING] or words
    if len(words) > 1:
        return tuple(f"{sentence.format(word)} (one of {len(words)} that fit equally)" for word in words[:_NAMED])
    return tuple(sentence.format(word) for word in words)


def _confirmed(session: Session, case: Case, subject: str, guesses: Guesses, words: list[str]) -> list[str]:
    """Those of the formulas that also give the target's values in larger cases: of few elements many fit by chance."""
    seen = dict.fromkeys(words, 0)
    for larger in _larger(session, case):
        if not words:
            break
        more = returned(session, larger)
        if more is None:
            continue
        setting = setting_of(session, larger)
        wrong = _subject(setting, more)
        if wrong not in (subject, None):
            continue  # something else is wrong there, which says nothing
        fit = fitting(setting, more, subject, guesses) if wrong else []
        tell = telling(setting, subject, guesses, words)
        for word in fit:
            seen[word] = seen.get(word, 0) + 1
        if larger.shards == case.shards:  # over other numbers of ranks the same mistake may have another formula
            words = [word for word in words if word in fit or word not in tell]
    return [word for word in words if seen[word]]


def telling(setting: Setting, subject: str, guesses: Guesses, words: Collection[str]) -> set[str]:
    """Those of the formulas that give something far from right in this case."""
    found = set()
    with np.errstate(all="ignore"):
        for word, formula in guesses(setting):
            if word in words and word not in found and (guess := formula()) is not None:
                judged = GRADIENTS if subject == "gradients" else tuple(guess)
                if is_far(setting, guess, judged):
                    found.add(word)
    return found


def setting_of(session: Session, case: Case) -> Setting:
    """The case as the formulas need it."""
    return Setting(case, session.positions(case), session.target.dialect, inputs_of(case), session.answer(case))


def returned(session: Session, case: Case) -> dict[str, Array] | None:
    """The target's tensors by name, assembled from the shards. None if it did not return, or returned the wrong shapes.

    A gradient that did not arrive is an empty array.
    """
    attended, finding = session.attend(case, lse=session.target.returns_lse)
    if finding is not None:
        return None
    positions, right = session.positions(case), session.answer(case).expected
    got = {}
    for name in ("out", "lse", *GRADIENTS):
        parts = [part.arrays[name] for part in attended if name in part.arrays]
        if any(part is not None for part in parts):
            got[name] = assemble(case, attended, positions, name)
            if got[name].shape != right[name].shape:
                return None
        elif parts or (name in GRADIENTS and name[0] in case.requires_grad):
            got[name] = np.empty(0)
    return got


def fitting(setting: Setting, got: Mapping[str, Array], subject: str, guesses: Guesses) -> list[str]:
    """What the formulas do that give these tensors, in words."""
    found = []
    with np.errstate(all="ignore"):
        for words, formula in guesses(setting):
            if words in found:
                continue
            guess = formula()
            if guess is None:
                continue
            judged = GRADIENTS if subject == "gradients" else tuple(guess)
            if fits(setting, got, guess, judged):
                found.append(words)
    return found


def _subject(setting: Setting, got: Mapping[str, Array]) -> str | None:
    """What is wrong: the output, or else the lse, or else the gradients."""
    wrong = []
    for name, array in got.items():
        expected, budget = setting.answer.expected[name], setting.answer.budget[name]
        if array.shape != expected.shape or not (shares(array, expected, budget, setting.case.dtype) <= 1.0).all():
            wrong.append(name)
    if not wrong:
        return None
    return wrong[0] if wrong[0] in ("out", "lse") else "gradients"


def _larger(session: Session, case: Case) -> Iterator[Case]:
    """Cases like this one in which more formulas differ."""
    uneven = session.target.uneven
    dims = {"head_dim": case.head_dim + 1, "value_dim": case.head_dim + (3 if session.target.value_dim else 1)}
    if case.head_dim > LARGEST_SMALL["head_dim"] or case.value_dim > LARGEST_SMALL["value_dim"]:
        dims = {}  # past a tile, where the mistake may be
    for more, world, left_over in (
        (2, case.world_size, 0),
        (2, session.largest_world, 0),
        (3, case.world_size, uneven),
        (4, case.world_size, 0),
    ):
        if world != case.world_size and case.group is not None:
            continue
        shards = world if case.group is None else case.shards
        length = (case.length // shards + more) * shards + (1 if left_over and shards > 1 else 0)
        yield session.fitted(over(case, length, world, case.group).replace(seed=case.seed + more, **dims))


def _missing_gradients(session: Session, case: Case, got: Mapping[str, Array]) -> tuple[str, ...]:
    missing = [name for name in GRADIENTS if name in got and got[name].size == 0 and case.length]
    if not missing:
        return ()
    if missing == ["key.grad", "value.grad"] and got.get("query.grad", np.empty(0)).size:
        return (
            "query gets its gradient, key and value get none: keys and values probably pass through an operation "
            "without gradient, such as torch.distributed.all_gather",
        )
    if "q" not in case.requires_grad:
        whole = returned(session, full := case.replace(requires_grad="qkv"))
        if whole is not None and _subject(setting_of(session, full), whole) is None:
            return ("key and value get gradients only if query requires one",)
    return ()
