"""How far beyond the bounds of logic the seeded mistakes stand: decades between a bound and what a mistake does.

    python -m tests.calibration.margins                 # all mutants, seed 0
    python -m tests.calibration.margins --seeds 3 M07 M19

A mistake's effect is the largest share of an error budget in the examples in which a check first catches it, as many as
EXAMPLES: in a single one, all that it changes may by chance weigh next to nothing in a softmax. A wrong number is
distinguished from rounding by that share alone. What ends in NaN, an exception or a hang has no share and stands
infinitely far. Mistakes of precision, which no bound of logic can tell, are left out.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.mutants import MUTANTS, Mutant
from attention_gate.verify.mutants.trial import Bench

#: Checks that compare float64 values with the oracle, element by element.
LOGIC = ("forward", "lse", "gradients", "sub-groups", "strides", "grad-subsets", "state", "schedules", "combinations")

#: So many examples in which a mistake is caught are looked at, as long as none of them is decades away.
EXAMPLES = 3

#: A bound of logic stands at least so many decades below the smallest effect of any seeded mistake.
LEAST = 3.0


@dataclass(frozen=True)
class Margin:
    """A mistake, the check that caught it, and the decades by which it did."""

    mutant: Mutant
    seed: int
    check: str
    decades: float
    example: str


def margin(bench: Bench, mutant: Mutant, seed: int = 0) -> Margin | None:
    """The margin of a mutant in the first check of logic that is meant for it and catches it; None if none does."""
    session = bench.session(mutant)
    for name in (name for name in mutant.caught_by if name in LOGIC):
        check = BY_NAME[name]
        if check.missing(session.target, session.world_sizes):
            continue
        found: list[Margin] = []
        for case, parameters in bench.examples(check, session.target, seed):
            verdict = check.examine(session, case, parameters)
            if verdict.finding is not None:
                finite = verdict.finding.outcome == "fail" and math.isfinite(verdict.budget_used)
                decades = math.log10(verdict.budget_used) if finite else math.inf
                found.append(Margin(mutant, seed, name, decades, repr(case)))
                if decades >= LEAST or len(found) == EXAMPLES:
                    break
        if found:
            return max(found, key=lambda one: one.decades)
    return None


def margins(bench: Bench, names: list[str], seeds: int) -> Iterator[Margin]:
    """The margins of the named mutants, or of all."""
    for mutant in MUTANTS:
        if mutant.keeps or (names and mutant.name not in names):
            continue
        for seed in range(seeds):
            if found := margin(bench, mutant, seed):
                yield found


def main() -> None:
    """Print the margins, the smallest at the end."""
    parser = argparse.ArgumentParser(prog="python -m tests.calibration.margins", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="mutants by name (default: all)")
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args()
    found = []
    with Bench() as bench:
        for one in margins(bench, options.names, options.seeds):
            found.append(one)
            print(
                f"{one.mutant.name:8s} seed {one.seed}  {one.decades:6.1f}  {one.check:12s} {one.example}", flush=True
            )
    finite = [one for one in found if math.isfinite(one.decades)]
    least = min(finite, key=lambda one: one.decades)
    print(
        f"{len(found)} margins, {len(finite)} of them finite; the smallest: {least.decades:.1f} ({least.mutant.name})"
    )


if __name__ == "__main__":
    main()
