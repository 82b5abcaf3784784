"""The kill matrix as text."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from attention_gate.verify.checks import CHECKS
from attention_gate.verify.mutants.trial import Trial

_WIDTH = 5


def line(trial: Trial) -> str:
    """One trial: caught or not, by what, how soon, and the minimal case."""
    mutant, first = trial.mutant, trial.first
    if mutant.keeps:
        outcome = "kept, as it should be" if first is None else f"CAUGHT by {first.check}, though it changes nothing"
        return f"{mutant.name}  {outcome}: {mutant.mistake}"
    if first is None:
        return f"{mutant.name}  SURVIVES: {mutant.mistake}"
    text = f"{mutant.name}  {first.check}, example {first.examples}, {first.seconds:.1f} s: {mutant.mistake}"
    if trial.missed:
        text += f"\n     NOT CAUGHT by {', '.join(trial.missed)}, which should"
    if trial.minimal is not None:
        text += f"\n     {trial.minimal.case!r}"
        if trial.minimal.parameters:
            text += f" with {trial.minimal.parameters}"
    return text


def matrix(trials: Sequence[Trial]) -> list[str]:
    """A row for each mutant, a column for each check: the example that caught it, or a dot if a glance did not."""
    names = [check.name for check in CHECKS]
    height = max(map(len, names))
    lines = [
        "     " + "".join(name.rjust(height)[depth].rjust(_WIDTH) for name in names).rstrip() for depth in range(height)
    ]
    for trial in trials:
        cells = []
        for name in names:
            cell = trial.cells.get(name)
            cells.append(" " if cell is None else str(cell.examples) if cell.caught else "·")
        lines.append(f"{trial.mutant.name:<5}" + "".join(cell.rjust(_WIDTH) for cell in cells).rstrip())
    lines.append("a number: the example that caught it; a dot: not caught at a glance; blank: not tried")
    return lines


def summary(trials: Sequence[Trial], what: str) -> list[str]:
    """How many mutants were caught at every seed, and how soon."""
    if not trials:
        return []
    names = list(dict.fromkeys(trial.mutant.name for trial in trials))
    seeds = len({trial.seed for trial in trials})
    lost = [name for name in names if not all(t.caught for t in trials if t.mutant.name == name)]
    caught = [trial.first for trial in trials if trial.first is not None]
    lines = [
        f"{len(names) - len(lost)} of {len(names)} {what} caught at each of {seeds} seed{'s' if seeds > 1 else ''}"
    ]
    if lost:
        lines.append(f"  survivors: {', '.join(lost)}")
    if caught:
        counts, times = [cell.examples for cell in caught], [cell.seconds for cell in caught]
        lines.append(
            f"  until caught: {statistics.median(counts):.0f} examples and {statistics.median(times):.2f} s in the "
            f"median, {max(counts)} examples and {max(times):.1f} s at worst"
        )
    return lines
