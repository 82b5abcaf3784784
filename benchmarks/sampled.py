"""Time and memory of the sampled oracle at a million positions, drawn when they are read.

    python benchmarks/sampled.py [--length 1048576] [--queries 1024] [--keys 64] [--dense]

Prints how many scores that takes, how long, and the most memory that the process held.
"""

import argparse
import os
import resource
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.drawn_rows import sources


def main() -> None:
    """Ask for random queries and keys, half of the keys in the sparsest branch."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=1 << 20)
    parser.add_argument("--queries", type=int, default=1024)
    parser.add_argument("--keys", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--head-dim", type=int, default=32)
    parser.add_argument("--cores", type=int, help="keep to so many processor cores")
    parser.add_argument("--dense", action="store_true", help="one causal branch, the keys among the last 4096")
    options = parser.parse_args()
    if options.cores:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.cores])
    n = options.length
    rates = [1] if options.dense else [8**power for power in range(4)]
    case = Case(
        length=n,
        heads=options.heads,
        kv_heads=options.heads,
        head_dim=options.head_dim,
        value_dim=options.head_dim,
        segment_lengths=(n,) if options.dense else tuple(min(2048 * rate, n) for rate in rates),
        dilation_rates=tuple(rates),
        is_causal=True,
        dtype="float32",
    )
    generator = np.random.default_rng(0)
    queries = np.sort(generator.choice(n, options.queries, replace=False))
    first = n - 4096 if options.dense else 0
    keys = first + np.sort(generator.choice(n - first, options.keys, replace=False))
    if not options.dense:  # half of them where the longest branch selects
        keys[::2] = keys[::2] // rates[-1] * rates[-1] + np.arange(len(keys[::2])) % options.heads
        keys = np.unique(keys)
    chosen = {"queries": queries, "keys": keys, "is_causal": True}
    chosen |= {"segment_lengths": case.segment_lengths, "dilation_rates": case.dilation_rates}
    given = sources(case)
    start = time.monotonic()
    scores = reference.sampled_scores(given[0].shape, given[1].shape, **chosen)
    print(f"{case!r}\n{len(queries)} queries and {len(keys)} keys: {scores:.3g} scores", flush=True)
    counted = time.monotonic()
    at = reference.sampled_attention(*given, **chosen)
    seconds = time.monotonic() - counted
    assert all(np.isfinite(part).all() for part in at)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"counted in {counted - start:.1f} s, answered in {seconds:.1f} s, {1e9 * seconds / scores:.1f} ns a score")
    print(f"at most {peak:.2f} GiB of memory")


if __name__ == "__main__":
    main()
