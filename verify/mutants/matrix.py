"""The kill matrix: which check catches which mistake at which example; what of it is kept, for reports to quote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from verify.checks import BY_NAME, CHECKS
from verify.mutants import KNOWN, OTHERS
from verify.mutants.trial import Trial
from verify.profiles import examples

SCHEMA = 1

#: The matrix that was measured last, for reports to quote.
RECORD = Path(__file__).with_name("matrix.json")


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
        text = f"this profile catches {self.caught} of {self.known} known mistakes"
        if self.survivors:
            text += f" (not {', '.join(self.survivors)})"
        return f"{text} and {self.others_caught} of {self.others} relatives of theirs"


def strength(profile: str) -> Strength:
    """What the recorded matrix says of a profile: a check catches a mistake if it gets so many examples.

    >>> str(strength("standard"))
    'this profile catches 40 of 40 known mistakes and 70 of 70 relatives of theirs'
    """
    rows = recorded()["mutants"]
    caught = {
        name
        for name, row in rows.items()
        if any(number <= examples(profile, BY_NAME[check].weight) for check, number in row["caught_at"].items())
    }
    known, others = [m.name for m in KNOWN], [m.name for m in OTHERS]
    survivors = tuple(name for name in known if name not in caught)
    return Strength(
        profile, len(known), len(known) - len(survivors), survivors, len(others), len(caught.intersection(others))
    )


@lru_cache(maxsize=1)
def recorded() -> dict[str, Any]:
    """The matrix that was measured last."""
    data: dict[str, Any] = json.loads(RECORD.read_text())
    return data


def to_json(trials: Iterable[Trial], *, profile: str, seconds: float) -> dict[str, Any]:
    """All trials as plain data; of a mutant with several trials the first one gives the matrix's row."""
    rows: dict[str, Any] = {}
    for trial in trials:
        mutant, first = trial.mutant, trial.first
        seed = {
            "seed": trial.seed,
            "caught": trial.caught,
            "check": None if first is None else first.check,
            "examples": None if first is None else first.examples,
            "seconds": None if first is None else round(first.seconds, 3),
        }
        if mutant.name in rows:
            rows[mutant.name]["seeds"].append(seed)
            continue
        rows[mutant.name] = {
            "mistake": mutant.mistake,
            "source": mutant.source,
            "world": mutant.world,
            "keeps": mutant.keeps,
            "as_expected": trial.as_expected,
            "missed": list(trial.missed),
            "caught_at": {name: cell.examples for name, cell in trial.cells.items() if cell.caught},
            "not_caught_within": {name: cell.examples for name, cell in trial.cells.items() if not cell.caught},
            "minimal": None if trial.minimal is None else repr(trial.minimal.case),
            "detail": {} if trial.minimal is None else trial.minimal.detail,
            "headline": None if trial.finding is None else trial.finding.headline,
            "seeds": [seed],
        }
    return {
        "schema": SCHEMA,
        "profile": profile,
        "seconds": round(seconds, 1),
        "checks": [check.name for check in CHECKS],
        "mutants": rows,
    }


def record(data: dict[str, Any]) -> None:
    """Keep of a matrix what reports quote, without what changes from run to run."""
    kept = {
        name: {"mistake": row["mistake"], "caught_at": row["caught_at"], "minimal": row["minimal"]}
        for name, row in data["mutants"].items()
        if not row["keeps"]
    }
    RECORD.write_text(json.dumps({"schema": SCHEMA, "checks": data["checks"], "mutants": kept}, indent=1) + "\n")
    recorded.cache_clear()
