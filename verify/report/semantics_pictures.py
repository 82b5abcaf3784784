"""Pictures of the semantics for the pages: what a branch, documents and a window see, and who owns which rows.

python -m attention_gate.verify.report.semantics_pictures FOLDER writes them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.report import colours, sight
from attention_gate.verify.report.filling import filled
from attention_gate.verify.report.whole_files import write_whole
from attention_gate.verify.target.layouts import INTERLEAVED, LAYOUTS, Layout, interleaved

_CAUSAL = Case(world_size=4, length=16, segment_lengths=(16,), dilation_rates=(1,), is_causal=True)


def seen_by(title: str, case: Case, layout: str = "contiguous") -> str:
    """What the first head of a case sees, its rows sharded by a layout, as SVG."""
    owned = [np.asarray(LAYOUTS[layout](rank, case.shards, case.length)) for rank in range(case.shards)]
    return sight.svg(sight.of_case(title, case, Positions.as_many(owned)))


def layouts(length: int = 16, ranks: int = 4) -> str:
    """Which rank owns each position, a line for each layout, as SVG."""
    rows = []
    drawn: dict[str, Layout] = {**LAYOUTS, f"{INTERLEAVED}, 2": partial(interleaved, rows=2)}
    del drawn[INTERLEAVED]  # of single rows it is striped
    for name, layout in drawn.items():
        owners = [0] * length
        for rank in range(ranks):
            for position in layout(rank, ranks, length):
                owners[int(position)] = rank
        rows.append((name, [(owner, colours.of_rank(owner)) for owner in owners]))
    return filled(
        "layouts.svg.j2",
        {
            "rows": rows,
            "length": length,
            "ranks": ranks,
            "standalone": True,
            "light": colours.css(dark=False),
            "dark": colours.css(dark=True),
        },
    )


#: The picture that each file has.
PICTURES: dict[str, Callable[[], str]] = {
    "dense.svg": lambda: seen_by("dense, causal: each query sees all keys up to its own", _CAUSAL),
    "branches.svg": lambda: seen_by(
        "branches (4, 1) and (16, 2), head 0: a key in both counts twice",
        _CAUSAL.replace(segment_lengths=(4, 16), dilation_rates=(1, 2)),
    ),
    "documents.svg": lambda: seen_by(
        "documents of 3, 7 and 6 rows, causal", _CAUSAL.replace(document_lengths=(3, 7, 6))
    ),
    "window.svg": lambda: seen_by("window (3, 0): the own key and three before it", _CAUSAL.replace(window=(3, 0))),
    "zigzag.svg": lambda: seen_by("dense, causal, zigzag: even work for every rank", _CAUSAL, "zigzag"),
    "layouts.svg": layouts,
}


def write_pictures(folder: Path) -> None:
    """Write each picture into its file."""
    for name, picture in PICTURES.items():
        write_whole(str(folder / name), picture())


if __name__ == "__main__":
    write_pictures(Path(sys.argv[1]))
