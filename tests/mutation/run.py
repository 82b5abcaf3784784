"""Mutate a package mechanically and list the mutants that nobody notices.

    python -m tests.mutation.run reference                      # against tests/reference
    python -m tests.mutation.run impls --every 5                # every fifth, against the gate and tests/impls
    python -m tests.mutation.run impls/tiling.py impls/work.py  # these files
    python -m tests.mutation.run impls --known                  # those of the ledger: does each survive still?
    python -m tests.mutation.run impls impls/fused --together   # the same, as many as possible in one program
    python -m tests.mutation.run impls/fused/two_streams.py --only tests/impls/test_two_gpus.py  # on two GPUs

Prints each survivor, and at the end the counts; those that the ledger does not know are marked NEW, those that it knows
and that are noticed STALE, and both make the exit status 1. The operators are in tests/mutation/operators.py, the
reasons for survivors in tests/mutation/ledger.json.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path

from tests.mutation.gate import FAST, SLOW, Gate
from tests.mutation.judges import forks, noticed_by_tests_of_ranks, survives_tests
from tests.mutation.operators import Mutant, mutants
from tests.mutation.together import REPOSITORY, Together, together

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
        f"tests/impls/test_{name}.py"
        for name in (
            "arguments",
            "kept_plans",
            "pieces",
            "work",
            "compiling",
            "modules",
            "agreement",
            "path",
            "refusals",
            "autograd",
            "upstream",
            "groups",
            "wire",
            "fused",
            "against_the_oracle",
            "row_transport",
            "triton_kernels",
            "tiling",
            "composition",
        )
    ],
    # All that come to these files on a CPU; the others get no further than `kernels.objection`.
    "impls/fused": [
        f"tests/impls/test_{name}.py"
        for name in ("fused", "row_transport", "two_streams", "path", "triton_kernels", "upstream", "task")
    ],
}

#: Tests that a mutant of a file meets before all others.
FIRST = {
    f"impls/{file}.py": f"tests/impls/test_{test}.py"
    for file, test in {
        "agreement": "agreement",
        "autograd": "upstream",
        "compiling": "composition",
        "block": "pieces",
        "collective": "wire",
        "exchange": "wire",
        "path": "path",
        "tiling": "tiling",
        "robust": "wire",
        "schedule": "wire",
        "signature": "wire",
        "work": "against_the_oracle",
        "zigzag": "fused",
        "fused/row_transport": "row_transport",
        "fused/symmetric": "row_transport",
        "fused/two_streams": "two_streams",
    }.items()
}

#: Tests of a file's parts: a mutant meets them first, in a fork of this process. Ranks that they start know no mutant.
OF_PARTS = {
    f"impls/fused/{file}.py": [f"tests/impls/test_{test}.py" for test in tests]
    for file, tests in {
        "__init__": ("task",),
        "combine": ("combine", "pipeline"),
        "engine": ("pipeline",),
        "grid": ("grid", "pipeline"),
        "pipeline": ("pipeline",),
        "cudnn_kernels": ("kernels",),
        "first_calls": ("first_calls",),
        "flash_kernels": ("kernels",),
        "kernels": ("kernels", "pipeline"),
        "plain_products": ("kernels", "pipeline"),
        "rendezvous": ("rendezvous",),
        "row_transport": ("messages",),
        "plan": ("fused_plan", "task"),
        "symmetric": ("symmetric",),
        "triton_kernels": ("triton_kernels",),
        "two_streams": ("streams",),
    }.items()
}

#: Files to which no call comes that the gate makes on a CPU.
OUT_OF_REACH = tuple(
    f"impls/fused/{name}.py"
    for name in ("cudnn_kernels", "first_calls", "flash_kernels", "rendezvous", "symmetric", "triton_kernels")
)


def chosen(what: Sequence[str], every: int, first: int) -> Iterator[Mutant]:
    """The mutants of a package's own files or of these files: all of them, or every so many-th."""
    paths = [REPOSITORY / each for each in what]
    files = [file for path in paths for file in (sorted(path.glob("*.py")) if path.is_dir() else [path])]
    found = (one for file in files for one in mutants(str(file.relative_to(REPOSITORY)), file.read_text()))
    for number, mutant in enumerate(found):
        if number % every == first:
            yield mutant


@lru_cache
def gate() -> Gate:
    """The gate that judges mutants of impls."""
    return Gate()


def noticed_by(mutant: Mutant | Together, seconds: float, only: Sequence[str] = ()) -> str:
    """Who notices a mutant, "" if nobody does; those who are quick are asked first, or no others than some tests."""
    if only:
        return noticed_by_tests_of_ranks(mutant, only, seconds)
    folder = Path(mutant.file).parent.as_posix()
    if folder == "reference":
        return "" if survives_tests(mutant, TESTS[folder], seconds) else "its tests"
    of_parts = sorted({test for file in mutant.sources for test in OF_PARTS.get(file, ())})
    if of_parts and not survives_tests(mutant, of_parts, seconds):
        return "tests of its parts"
    first = FIRST.get(mutant.file, "tests/impls/test_fused.py" if folder == "impls/fused" else None)
    ordered = sorted(TESTS[folder], key=lambda test: test != first)
    if set(mutant.sources) <= set(OUT_OF_REACH):
        return noticed_by_tests_of_ranks(mutant, [*of_parts, *ordered], seconds)
    return (
        gate().noticed_by(mutant, FAST)
        or noticed_by_tests_of_ranks(mutant, ordered, seconds)
        or gate().noticed_by(mutant, SLOW)
    )


def _check_judges(what: Sequence[str], seconds: float, only: Sequence[str]) -> None:
    """Exit where a judge finds fault with what nobody has changed: it would with every mutant."""
    files = {mutant.file for mutant in chosen(what, 1, 0)}
    by = noticed_by(_unchanged(min(files)), seconds, only)
    for file in files if not only else ():
        if file in OF_PARTS and not survives_tests(_unchanged(file), OF_PARTS[file], seconds):
            by = f"one of {', '.join(OF_PARTS[file])}"
    if by:
        sys.exit(f"as things are, with nothing changed, {by} fails: no mutant can be judged")


def _unchanged(file: str) -> Mutant:
    return Mutant(file, "", 0, "", "", (REPOSITORY / file).read_text())


def _judge_together(mutants: list[Mutant], seconds: float) -> int:
    stale = 0
    for _, of_folder in itertools.groupby(mutants, lambda mutant: Path(mutant.file).parent):
        for program in together(of_folder):
            by = noticed_by(program, seconds)
            print(f"{len(program.mutants)} at once: {f'noticed by {by}' if by else 'survived'}", flush=True)
            for mutant in program.mutants if by else ():  # one of them, or what they are to each other
                by = noticed_by(mutant, seconds)
                stale += bool(by)
                print(f"    {f'STALE, noticed by {by}' if by else 'survived'}: {mutant.key}", flush=True)
    return 1 if stale else 0


def main() -> int:
    """Judge the mutants that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutation.run", description=__doc__.splitlines()[0])
    parser.add_argument("what", nargs="+", help="reference, impls, or some files of one of them")
    parser.add_argument("--every", type=int, default=1, help="judge every so many-th mutant (default: all)")
    parser.add_argument("--first", type=int, default=0, help="begin with this one")
    parser.add_argument("--seconds", type=float, default=300.0, help="that the tests may take (default 300)")
    parser.add_argument("--known", action="store_true", help="judge only those that the ledger knows")
    parser.add_argument("--together", action="store_true", help="the same, as many as possible in one program")
    parser.add_argument("--only", nargs="+", default=(), metavar="TEST", help="judge by these tests alone")
    parser.add_argument("--all", action="store_true", help="print who noticed each of the others, too")
    options = parser.parse_args()
    os.chdir(REPOSITORY)
    forks()  # before there is a gate
    known = json.loads(LEDGER.read_text()) if LEDGER.exists() else {}
    if options.together and (options.every != 1 or options.first or options.only):
        parser.error("--together takes all that the ledger knows, and asks all judges")
    _check_judges(options.what, options.seconds, options.only)
    if options.together:
        return _judge_together([one for one in chosen(options.what, 1, 0) if one.key in known], options.seconds)
    noticed, survived, new, stale, start = 0, 0, 0, 0, time.monotonic()
    for mutant in chosen(options.what, options.every, options.first):
        if options.known and mutant.key not in known:
            continue
        place = f"{mutant.file}:{mutant.line} {mutant.key}"
        by = noticed_by(mutant, options.seconds, options.only)
        if by:
            noticed += 1
            stale += mutant.key in known
            if options.all or mutant.key in known:
                print(f"{'STALE, ' if mutant.key in known else ''}noticed by {by}: {place}", flush=True)
        else:
            survived += 1
            new += mutant.key not in known
            print(f"survived: {place}\n    {known.get(mutant.key, 'NEW')}", flush=True)
        print(f"\r{noticed} noticed, {survived} survived", end="", file=sys.stderr, flush=True)
    print(
        f"\n{' '.join(options.what)}: {noticed} of {noticed + survived} mutants noticed, {survived} survived, {new} of "
        f"them not in the ledger, {stale} in it are noticed, {time.monotonic() - start:.0f} s"
    )
    return 1 if new or stale else 0


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
