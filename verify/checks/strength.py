"""How much a "conforms" is worth: the known mistakes that a profile catches, by the kill matrix measured last."""

from __future__ import annotations

import ast
import json
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.coverage import options_of
from attention_gate.verify.case.options import Row, Space, space
from attention_gate.verify.case.term_axes import OFF
from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.target.target import Target

#: The matrix that was measured last; ``python -m attention_gate mutants --record`` writes it.
RECORD = Path(__file__).with_name("kill_matrix.json")

#: The numbers of ranks that it was measured with.
MEASURED_WORLD_SIZES = (1, 2, 3, 4)

#: What the names of known mistakes begin with: those of the contract, and those with its optional terms.
_KNOWN = ("M", "T")


@dataclass(frozen=True)
class Strength:
    """How many mistakes a profile catches. ``survivors`` are the names of known mistakes that it does not.

    ``beyond`` are mistakes, known or not, that show only in calls that the target declares it does not take: they are
    counted nowhere else.
    """

    profile: str
    known: int
    caught: int
    survivors: tuple[str, ...]
    others: int
    others_caught: int
    beyond: int = 0

    def __str__(self) -> str:
        known = "all" if not self.survivors else f"{self.caught} of"
        text = f"such a run finds {known} {self.known} known mistakes"
        others = "all" if self.others_caught == self.others else f"{self.others_caught} of"
        text += f" and {others} {self.others} variants of them"
        if self.beyond:
            text += f" that can show in the calls that it takes ({self.beyond} more cannot)"
        if self.survivors:
            mistakes = [recorded()["mutants"][name]["mistake"] for name in self.survivors]
            text += "; it would pass a target in which " + "; or ".join(mistakes)
        return text


@dataclass(frozen=True)
class KillRow:
    """A mistake, known or a variant: what it is, and by check the example that caught it where the matrix was measured.

    ``catches`` are those checks that had at least as many examples in the run.
    """

    mistake: str
    caught_at: dict[str, int]
    catches: tuple[str, ...]


def kill_rows(
    profile: str, checks: Collection[str] = tuple(BY_NAME), target: Target | None = None
) -> dict[str, KillRow]:
    """The rows of the recorded matrix, by the mistakes' names, that can show in calls that a target takes."""
    shows = (lambda minimal: True) if target is None else _shown_by(target)
    found = {}
    for name, row in recorded()["mutants"].items():
        if not shows(row["minimal"]):
            continue
        catches = tuple(
            check
            for check, number in row["caught_at"].items()
            if check in checks and profile in BY_NAME[check].profiles and number <= BY_NAME[check].examples(profile)
        )
        found[name] = KillRow(row["mistake"], row["caught_at"], catches)
    return found


def strength(profile: str, checks: Collection[str] = tuple(BY_NAME), target: Target | None = None) -> Strength:
    """What the recorded matrix says of a profile: a check catches a mistake if it gets enough examples.

    ``checks`` are those that ran, over world sizes 1 to 4, which the matrix was measured with. A ``target`` that
    declares limits is not asked for all of it: of what it does not take, no mistake is caught.

    >>> str(strength("standard"))
    'such a run finds all 106 known mistakes and all 136 variants of them'
    """
    every: dict[str, Any] = recorded()["mutants"]
    rows = kill_rows(profile, checks, target)
    caught = {name for name, row in rows.items() if row.catches}
    known = [name for name in rows if name.startswith(_KNOWN)]
    others = [name for name in rows if not name.startswith(_KNOWN)]
    survivors = tuple(name for name in known if name not in caught)
    return Strength(
        profile,
        len(known),
        len(known) - len(survivors),
        survivors,
        len(others),
        len(caught.intersection(others)),
        len(every) - len(rows),
    )


def _shown_by(target: Target) -> Callable[[str | None], bool]:
    """Whether the smallest case in which a mistake shows has no option that the target does not take."""
    axes = space(target, MEASURED_WORLD_SIZES)
    simplest = space(Target(attend=target.attend), MEASURED_WORLD_SIZES)
    return lambda minimal: minimal is None or _taken(_options(minimal), axes, simplest)


@cache  # a run asks after each check
def _options(minimal: str) -> Row:
    """The options of a recorded case."""
    return options_of(_case(minimal))


def _case(text: str) -> Case:
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    return Case(**{word.arg: ast.literal_eval(word.value) for word in call.keywords if word.arg is not None})


def _taken(options: Row, axes: Space, simplest: Space) -> bool:
    """Whether a target with these axes takes the options; ``simplest`` are the axes of one that takes everything."""
    # What is the simplest anyway stands for any other: a case without a mask was not made smaller by having none. But
    # a case with gradients needs them.
    return all(
        value in axes.get(name, (OFF,))  # a term that the target does not declare is off
        or name in ("ranks", "dtype", "data")
        or (value == "" if name == "requires_grad" else value == simplest.get(name, (OFF,))[0])
        for name, value in options.items()
    )


@lru_cache(maxsize=1)
def recorded() -> dict[str, Any]:
    """The matrix that was measured last."""
    data: dict[str, Any] = json.loads(RECORD.read_text())
    return data
