"""The kill matrix: which check catches which mistake at which example; what of it is kept, for reports to quote."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from attention_gate.verify.checks import CHECKS
from attention_gate.verify.checks.strength import RECORD, recorded
from attention_gate.verify.mutants import KNOWN, OTHERS
from attention_gate.verify.mutants.trial import Trial

SCHEMA = 1


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
            "parameters": {} if trial.minimal is None else trial.minimal.parameters,
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
    """Keep of a matrix what reports quote, without what changes from run to run.

    Mutants that it leaves out keep the rows that they have.
    """
    rows = recorded()["mutants"] | {
        name: {"mistake": row["mistake"], "caught_at": row["caught_at"], "minimal": row["minimal"]}
        for name, row in data["mutants"].items()
        if not row["keeps"]
    }
    kept = {mutant.name: rows[mutant.name] for mutant in (*KNOWN, *OTHERS) if mutant.name in rows}
    RECORD.write_text(json.dumps({"schema": SCHEMA, "checks": data["checks"], "mutants": kept}, indent=1) + "\n")
    recorded.cache_clear()
