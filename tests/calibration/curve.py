"""The error against the number of key blocks: what rounding costs where it is correct, and where it is a mistake.

    python -m tests.calibration.curve
    python -m tests.calibration.curve --dtype float16 --seeds 8

1024 keys, 64 queries and 32 dimensions, cut into 1 to 32 blocks that are merged one after another. Each figure is the
root-mean-square error of the output in units of that of one final rounding, over all seeds together. The data is
normal, or one-sided as in the cases that the precision check measures on, where terms agree in sign.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

import numpy as np
import torch

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.data import rows
from attention_gate.verify.case.styles import ONE_SIDED
from attention_gate.verify.judge.rms_error import rms_ratio
from tests.verify.correct.kernel import Block, Problem, Queries, forward
from tests.verify.correct.style import Style

BLOCKS = (1, 2, 4, 8, 16, 32)

#: The rows of the table: how an attention rounds.
ROUNDINGS = {
    "float32 throughout": Style(),
    "P rounded": Style(round_weights=True),
    "P and each block's output rounded": Style(round_weights=True, round_blocks=True),
    "running output rounded (a mistake)": Style(narrow_output=True),
}


def curve(
    dtype: str = "bfloat16",
    data: str = "normal",
    *,
    blocks: Sequence[int] = BLOCKS,
    keys: int = 1024,
    queries: int = 64,
    dim: int = 32,
    seeds: int = 4,
) -> dict[str, list[float]]:
    """The errors by row of the table, one for each number of blocks."""
    squares: dict[str, list[list[float]]] = {name: [[] for _ in blocks] for name in ROUNDINGS}
    for seed in range(seeds):
        case = Case(
            length=keys, head_dim=dim, value_dim=dim, segment_lengths=(keys,), dtype=dtype, data=data, seed=seed
        )
        query, key, value = (rows(case, name, np.arange(keys)) for name in ("query", "key", "value"))
        query = query[:, :queries]
        right, _ = reference.attention(query, key, value, np.ones((queries, keys), dtype=bool))
        tensors = [torch.from_numpy(x).swapaxes(1, 2).to(getattr(torch, dtype)) for x in (query, key, value)]
        asking = Queries(tensors[0], torch.arange(queries), torch.arange(1))
        problem = Problem((keys,), (1,), False, dim**-0.5)
        for column, count in enumerate(blocks):
            parts = zip(*(x.chunk(count, dim=2) for x in tensors[1:]), torch.arange(keys).chunk(count), strict=True)
            pieces = [Block(*part) for part in parts]
            for name, style in ROUNDINGS.items():
                out, _ = forward(style, problem, asking, pieces)
                got = out.transpose(1, 2).to(getattr(torch, dtype)).double().numpy()
                squares[name][column].append(rms_ratio(got, right, dtype) ** 2)
    return {name: [float(np.sqrt(np.mean(some))) for some in columns] for name, columns in squares.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.calibration.curve", description=__doc__.splitlines()[0])
    parser.add_argument("--dtype", choices=("bfloat16", "float16"), default="bfloat16")
    parser.add_argument("--seeds", type=int, default=4)
    options = parser.parse_args()
    for data in ("normal", ONE_SIDED):
        print(f"{options.dtype}, {data} data; blocks of keys".ljust(48) + "".join(f"{count:6d}" for count in BLOCKS))
        for name, figures in curve(options.dtype, data, seeds=options.seeds).items():
            print(f"  {name:46s}" + "".join(f"{figure:6.2f}" for figure in figures))


if __name__ == "__main__":
    main()
