"""Mechanical mutants of the correct programs that were written from the contract alone, judged by the gate alone.

    python -m tests.mutation.family --every 7                 # every seventh mutant of all ten programs
    python -m tests.mutation.family --every 70 --first 3      # a tenth of those, for one of ten processes
    python -m tests.mutation.family --known                   # those of the ledger: does each survive still?

Prints who notices each, and each survivor with what tests/mutation/family.json says of it; NEW if it says nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.profiles import PROFILES
from attention_gate.verify.judge.session import Session
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.run.judging import load_everywhere
from attention_gate.verify.run.search import search
from attention_gate.verify.target.loading import load
from attention_gate.verify.target.source import TargetError, parse_source
from attention_gate.verify.world.local import Worlds
from tests.mutation.operators import Mutant, mutants

PROGRAMS = Path(__file__).parents[1] / "verify/correct/programs"
LEDGER = Path(__file__).with_name("family.json")

#: Checks that take longest come last; those that need a GPU are left out.
_LAST = ("precision", "refusals", "schedules", "shapes", "combinations")
ORDER = (*(name for name, check in BY_NAME.items() if name not in _LAST and check.runs_on("cpu")), *_LAST)


def chosen(every: int, first: int) -> Iterator[Mutant]:
    """Every so many-th mutant of the programs."""
    found = (one for file in sorted(PROGRAMS.glob("[a-z]*.py")) for one in mutants(file.name, file.read_text()))
    yield from (mutant for number, mutant in enumerate(found) if number % every == first)


def noticed_by(mutant: Mutant, path: Path, worlds: Worlds, network: SimulatedWorlds, profile: str) -> str:
    """The first check that notices the mutant, "loading" if it cannot be imported; "" if none does."""
    path.write_text(mutant.source)
    source = parse_source(f"{path}:attend")
    try:
        session = Session(load(source), source, worlds, (1, 2, 3, 4), network=network)
        load_everywhere(session)
    except TargetError:
        return "loading"
    for check in (BY_NAME[name] for name in ORDER):
        if check.missing(session.target, session.world_sizes):
            continue
        for _ in range(2):  # a hang, which a busy machine may feign, must be found twice
            planned = check.examples(profile)
            found = search(check, session, examples=planned, seed=0, shrink_seconds=0.0)
            if found.finding is None or found.finding.outcome != "hang":
                break
        if found.finding is not None:
            return f"{check.name} ({found.finding.outcome}, example {found.examples})"
    return ""


def main() -> int:
    """Judge the mutants that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.family", description=__doc__.splitlines()[0])
    parser.add_argument("--every", type=int, default=1, help="judge every so many-th mutant (default: all)")
    parser.add_argument("--first", type=int, default=0, help="begin with this one")
    parser.add_argument("--known", action="store_true", help="judge only those that the ledger knows")
    parser.add_argument("--profile", choices=tuple(PROFILES), default="standard")
    options = parser.parse_args()
    known = json.loads(LEDGER.read_text()) if LEDGER.exists() else {}
    noticed, survived, new, start = 0, 0, 0, time.monotonic()
    with Worlds() as worlds, SimulatedWorlds() as network, tempfile.TemporaryDirectory() as folder:
        for number, mutant in enumerate(chosen(options.every, options.first)):
            if options.known and mutant.key not in known:
                continue
            began = time.monotonic()
            path = Path(folder) / f"mutant_{number}.py"
            by = noticed_by(mutant, path, worlds, network, options.profile)
            noticed, survived, new = noticed + bool(by), survived + (not by), new + (not by and mutant.key not in known)
            words = f"noticed by {by}" if by else f"SURVIVED, {known.get(mutant.key, 'NEW')}"
            print(f"{words} | line {mutant.line} | {time.monotonic() - began:.1f} s | {mutant.key}", flush=True)
    print(f"{noticed} of {noticed + survived} noticed, {new} survivors are not in the ledger, ", end="")
    print(f"{time.monotonic() - start:.0f} s")
    return 1 if new else 0


if __name__ == "__main__":
    sys.exit(main())
