"""How much a "conforms" is worth: the known mistakes that a profile catches, by the kill matrix measured last."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.profiles import examples

#: The matrix that was measured last; ``python -m attention_gate mutants --record`` writes it.
RECORD = Path(__file__).with_name("kill_matrix.json")

#: The numbers of ranks that it was measured with.
MEASURED_WORLD_SIZES = (1, 2, 3, 4)

#: What the names of known mistakes begin with; those of their relatives begin otherwise.
_KNOWN = "M"


@dataclass(frozen=True)
class Strength:
    """How many mistakes a profile catches. ``survivors`` are the names of known mistakes that it does not."""

    profile: str
    known: int
    caught: int
    survivors: tuple[str, ...]
    others: int
    others_caught: int

    def __str__(self) -> str:
        text = f"these checks catch {self.caught} of {self.known} known mistakes"
        if self.survivors:
            text += f" (not {', '.join(self.survivors)})"
        return f"{text} and {self.others_caught} of {self.others} relatives of theirs"


def strength(profile: str, checks: Collection[str] = tuple(BY_NAME)) -> Strength:
    """What the recorded matrix says of a profile: a check catches a mistake if it gets so many examples.

    ``checks`` are those that ran, over world sizes 1 to 4, which the matrix was measured with.

    >>> str(strength("standard"))
    'these checks catch 40 of 40 known mistakes and 87 of 87 relatives of theirs'
    """
    rows: dict[str, Any] = recorded()["mutants"]
    caught = {
        name
        for name, row in rows.items()
        if any(
            number <= examples(profile, BY_NAME[check].weight)
            for check, number in row["caught_at"].items()
            if check in checks
        )
    }
    known = [name for name in rows if name.startswith(_KNOWN)]
    others = [name for name in rows if not name.startswith(_KNOWN)]
    survivors = tuple(name for name in known if name not in caught)
    return Strength(
        profile, len(known), len(known) - len(survivors), survivors, len(others), len(caught.intersection(others))
    )


@lru_cache(maxsize=1)
def recorded() -> dict[str, Any]:
    """The matrix that was measured last."""
    data: dict[str, Any] = json.loads(RECORD.read_text())
    return data
