"""Examples per second: the whole search, oracle and judgement included, beside the bare loop inside the workers.

python benchmarks/throughput.py [--world-sizes 2,4] [--examples 400] [--target impls.robust:attend]

The search draws a case, has every rank make its inputs, call the target forward and backward and send the results home,
computes the oracle's answer and judges each element. The bare loop makes inputs and calls forward and backward, within
the workers and over the same cases: what is left if drawing, pipes, oracle and judgement cost nothing.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.commands.gate import world_sizes
from attention_gate.verify.judge.session import Session
from attention_gate.verify.run.judging import load_everywhere
from attention_gate.verify.run.search import search
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.source import Source
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.local import Worlds

#: Cases of the search that the bare loop runs, and how often each.
_BARE_CASES, _BARE_TIMES = 40, 10


def measure(target: Target, source: Source, size: int, examples: int, check: str) -> tuple[float, float]:
    """Examples per second of the search and of the bare loop, in one world of that size."""
    with Worlds() as worlds:
        session = Session(target, source, worlds, (size,))
        load_everywhere(session)
        search(BY_NAME[check], session, examples=20, seed=1)  # what is done once is done now
        session.tried.clear()
        start = time.perf_counter()
        searched = search(BY_NAME[check], session, examples=examples, seed=0)
        whole = searched.examples / (time.perf_counter() - start)
        if searched.finding is not None:
            raise SystemExit(f"{source} fails, so that nothing was measured: {searched.finding.headline}")
        tried = sorted(session.tried, key=repr)
        seconds = 0.0
        for case in tried[:: max(1, len(tried) // _BARE_CASES)][:_BARE_CASES]:
            run = session.run("repeat", case, times=_BARE_TIMES)
            seconds += max(run.value(rank) for rank in case.ranks)
        return whole, min(_BARE_CASES, len(tried)) / seconds


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--world-sizes", type=world_sizes, default=(2, 4), metavar="2,4")
    parser.add_argument("--examples", type=int, default=400, metavar="N")
    parser.add_argument("--target", default="impls.robust:attend")
    parser.add_argument("--check", choices=tuple(BY_NAME), default="gradients")
    options = parser.parse_args()
    target, source = as_target(options.target)
    print(f"{options.target}, check {options.check}, {options.examples} examples, forward and backward\n")
    print(f"{'ranks':>5}  {'search, oracle included':>24}  {'bare loop in the workers':>24}")
    for size in options.world_sizes:
        whole, bare = measure(target, source, size, options.examples, options.check)
        print(f"{size:>5}  {whole:>14.0f} examples/s  {bare:>14.0f} examples/s", flush=True)


if __name__ == "__main__":
    main()
