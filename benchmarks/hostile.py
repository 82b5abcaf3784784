"""The table of hostile targets: what each came to, in how many seconds, and what was left of it.

python benchmarks/hostile.py --times 20 [--only hangs]

The settings are those of the tests: few examples and little patience.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.verify.hostile.judging import judge
from tests.verify.hostile.settings import hurry
from tests.verify.hostile.table import TABLE, Hostile


def main() -> int:
    """Print a row for each target; 1 if any had another outcome than expected, or left anything behind."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--only", default="", help="targets whose name contains this")
    options = parser.parse_args()
    hurry(setattr)
    wrong = 0
    start = time.monotonic()
    print("| target | outcome | as expected | seconds | processes left | files left |\n|---|---|---|---|---|---|")
    for hostile in TABLE:
        if options.only in hostile.target:
            wrong += row(hostile, options.times)
    print(
        f"\n{len(TABLE)} targets, {options.times} times each, {time.monotonic() - start:.0f} s, {wrong} not as expected"
    )
    return int(wrong > 0)


def row(hostile: Hostile, times: int) -> int:
    """Judge a target several times and print what it came to; how often that was not as expected."""
    good, seconds, processes, files = 0, [], 0, 0
    outcomes = set()
    for _ in range(times):
        with tempfile.TemporaryDirectory() as folder:
            before = os.getcwd()
            os.chdir(folder)
            tempfile.tempdir = folder
            try:
                judged = judge(hostile)
            finally:
                os.chdir(before)
                tempfile.tempdir = None
        outcomes.add(judged.outcome)
        seconds.append(judged.seconds)
        processes += len(judged.processes)
        files += len(judged.files)
        said = all(words in judged.text for words in hostile.words.split("…"))
        good += judged.outcome == hostile.outcome and said and not judged.processes and not judged.files
    print(
        f"| {hostile.target} ({hostile.check}) | {', '.join(sorted(outcomes))} | {good} of {times} "
        f"| {min(seconds):.1f}–{max(seconds):.1f} | {processes} | {files} |",
        flush=True,
    )
    return times - good


if __name__ == "__main__":
    sys.exit(main())
