"""Mutate a package mechanically and list the mutants that nobody notices.

    python -m tests.mutation.run reference                      # against tests/reference
    python -m tests.mutation.run impls --every 5                # every fifth, against the gate, then tests/impls
    python -m tests.mutation.run reference/_attention.py

Prints each survivor, and at the end the counts; those that the ledger does not know are marked NEW and make the exit
status 1. The operators are in tests/mutation/operators.py, the reasons for survivors in tests/mutation/ledger.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from tests.mutation.gate import Gate
from tests.mutation.judges import REPOSITORY, survives_tests, survives_tests_of_ranks
from tests.mutation.operators import Mutant, mutants

LEDGER = Path(__file__).with_name("ledger.json")

#: Tests that judge a package, those that notice most first.
TESTS = {
    "reference": [
        "tests/reference/test_against_prose.py",
        "tests/reference/test_corners.py",
        "tests/reference/test_refusals.py",
        "tests/reference/test_schedule.py",
        "tests/reference/test_against_torch.py",
        "tests/reference/test_against_differences.py",
        "tests/reference/test_against_fifty_digits.py",
        "tests/mutation/test_survivors.py",
    ],
    "impls": [
        "tests/impls/test_plan.py",
        "tests/impls/test_modules.py",
        "tests/impls/test_refusals.py",
        "tests/impls/test_autograd.py",
        "tests/impls/test_groups.py",
        "tests/impls/test_wire.py",
        "tests/impls/test_against_the_oracle.py",
    ],
}


def chosen(what: str, every: int, first: int) -> Iterator[Mutant]:
    """The mutants of a package or of one of its files: all of them, or every so many-th."""
    files = sorted((REPOSITORY / what).glob("*.py")) if (REPOSITORY / what).is_dir() else [REPOSITORY / what]
    found = (one for file in files for one in mutants(str(file.relative_to(REPOSITORY)), file.read_text()))
    for number, mutant in enumerate(found):
        if number % every == first:
            yield mutant


@lru_cache
def gate() -> Gate:
    """The gate that judges mutants of impls."""
    found = Gate()
    if by := found.noticed_by(_unchanged("impls")):
        sys.exit(f"the check {by} fails as things are, with nothing changed: no mutant can be judged")
    return found


def _unchanged(package: str) -> Mutant:
    file = REPOSITORY / package / "__init__.py"
    return Mutant(str(file.relative_to(REPOSITORY)), "", 0, "", "", file.read_text())


def main() -> int:
    """Judge the mutants that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run", description=__doc__.splitlines()[0])
    parser.add_argument("what", help="reference, impls, or one of their files")
    parser.add_argument("--every", type=int, default=1, help="judge every so many-th mutant (default: all)")
    parser.add_argument("--first", type=int, default=0, help="begin with this one")
    parser.add_argument("--seconds", type=float, default=300.0, help="that the tests may take (default 300)")
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    known = json.loads(LEDGER.read_text()) if LEDGER.exists() else {}
    package = Path(options.what).parts[0]
    if package == "reference" and not survives_tests(_unchanged(package), TESTS[package], options.seconds):
        sys.exit("the tests do not pass as things are, with nothing changed: no mutant can be judged")
    noticed, survivors, start = 0, [], time.monotonic()
    for mutant in chosen(options.what, options.every, options.first):
        if package == "reference":
            survived = survives_tests(mutant, TESTS[package], options.seconds)
        else:
            survived = not gate().noticed_by(mutant)
            survived = survived and survives_tests_of_ranks(mutant, TESTS[package], options.seconds)
        if survived:
            survivors.append(mutant)
            reason = known.get(mutant.key, "NEW")
            print(f"survived: {mutant.file}:{mutant.line} {mutant.key}\n    {reason}", flush=True)
        else:
            noticed += 1
        print(f"\r{noticed} noticed, {len(survivors)} survived", end="", file=sys.stderr, flush=True)
    new = [mutant for mutant in survivors if mutant.key not in known]
    print(
        f"\n{options.what}: {noticed} of {noticed + len(survivors)} mutants noticed, {len(survivors)} survived, "
        f"{len(new)} of them not in the ledger, {time.monotonic() - start:.0f} s"
    )
    return 1 if new else 0


if __name__ == "__main__":
    # Loaded once, so that a forked judge does not have to.
    import hypothesis
    import mpmath
    import numpy
    import pytest
    import torch

    _ = (hypothesis, mpmath, numpy, pytest)
    torch.set_num_threads(1)
    sys.exit(main())
