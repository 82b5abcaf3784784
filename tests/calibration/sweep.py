"""No correct implementation is flagged: the gate's own examples, judged by its own judge, over the correct family.

    python -m tests.calibration.sweep                                   # 10,000 examples per dtype, 20 seeds
    python -m tests.calibration.sweep --examples 200 --seeds 2          # a taste
    python -m tests.calibration.sweep --json tests/calibration/sweep.json

The examples are those that the search of the gate draws for its precision check (in float64 of the same kind), one
seed after another, and the styles of tests.verify.correct take turns. All ranks of an example run in this process:
the same kernels in the same orders, without the wire; from there on everything is the gate's.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import numpy as np
import torch

from attention_gate.verify.case.case import Case
from attention_gate.verify.case.precision_cases import RANKS, blocks_measured, measured_rows, on_fewer_ranks
from attention_gate.verify.case.styles import ONE_SIDED
from attention_gate.verify.checks.check import Parameters, plain
from attention_gate.verify.checks.precision import PRECISION
from attention_gate.verify.judge.comparison import Verdict, assemble, shares
from attention_gate.verify.judge.error_budget import CONSTANT
from attention_gate.verify.judge.rms_error import RMS_LIMITS, regime, rms_ratio
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.tensor_names import VALUES
from attention_gate.verify.network.simulated_worlds import Simulation
from attention_gate.verify.network.trace import Trace
from attention_gate.verify.rank.attended import Attended
from attention_gate.verify.rank.jobs import Job, Returned, Run
from attention_gate.verify.run.search import search
from attention_gate.verify.target.choices import DTYPES, LEAST_BLOCKS
from attention_gate.verify.target.source import Source
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.finding import Finding
from tests.verify.correct.simulated import attended
from tests.verify.correct.style import STYLES, Style

WORLD_SIZES = (1, 2, 3, 4)
NAMES = tuple(STYLES)

#: Root-mean-square errors by regime, tensor and style.
Roundings = dict[tuple[tuple[int, str], str, str], list[float]]


class _Here:
    """What a session asks of its worlds that the ranks of one process need not have: patience."""

    def hurried(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()


class _Network:
    """A simulated network of any size whose ranks are in this process."""

    latest: Simulation | None = None

    def __init__(self, session: InOneProcess) -> None:
        self._session = session
        self.simulation: Simulation | None = None

    def __getitem__(self, size: int) -> _Network:
        return self

    def submit(self, job: Job) -> None:
        (case,) = job.cases
        results, _ = self._session.attend(case, **job.options)
        replies = tuple(Returned([result], 0.0) for result in results)
        self.simulation = Simulation(Run(replies, 0.0), Trace(case.world_size, "rendezvous"), None)

    def collect(self) -> None: ...

    def close(self) -> None: ...


class InOneProcess(Session):
    """A session whose ranks are simulated, in the style that it is given."""

    style: Style
    results: list[Attended]

    def __init__(self, target: Target, world_sizes: tuple[int, ...] = WORLD_SIZES) -> None:
        super().__init__(target, Source("tests.verify.correct.targets", None, "plain"), _Here(), world_sizes)  # type: ignore[arg-type]
        self.network = _Network(self)  # type: ignore[assignment]

    @property
    def device(self) -> str:
        """Where everything is."""
        return "cpu"

    def attend(self, case: Case, **options: Any) -> tuple[list[Any], Finding | None]:
        """What the ranks would bring home; it stays at hand."""
        self.results = attended(case, self.style)
        if not options.get("lse"):
            for home in self.results:
                del home.arrays["lse"], home.facts["lse"]
        return self.results, None


@dataclasses.dataclass
class Seen:
    """What one part of a sweep has seen."""

    examples: int = 0
    flagged: list[str] = dataclasses.field(default_factory=list)
    #: By tensor: the largest error in units of the analysis, the style and the case.
    largest: dict[str, tuple[float, str, str]] = dataclasses.field(default_factory=dict)
    #: By regime (ranks, one or several branches), tensor and style: root-mean-square errors in units of one rounding.
    roundings: Roundings = dataclasses.field(default_factory=lambda: defaultdict(list))

    def record(self, case: Case, style: str, session: InOneProcess, verdict: Verdict) -> None:
        """Take in one example, judged in that style."""
        self.examples += 1
        if verdict.finding is not None:
            self.flagged.append(f"{style}: {verdict.finding.headline}: {case!r}")
        positions, right = session.positions(case), session.answer(case)
        for name in VALUES:
            got = assemble(case, session.results, positions, name)
            share = shares(got, right.expected[name], right.budget[name], case.dtype)
            found = (CONSTANT * float(share.max(initial=0.0)), style, repr(case))
            self.largest[name] = max(self.largest.get(name, found), found)
            merged = blocks_measured(case, session.target)
            if case.data == ONE_SIDED and merged >= LEAST_BLOCKS:
                dtype = case.dtype if name != "lse" else "float32"
                rows = (*(slice(None),) * (2 if name == "lse" else 1), measured_rows(case, name))
                ratio = rms_ratio(got[rows], right.expected[name][rows], dtype, least=1)
                self.roundings[regime(merged, len(case.segment_lengths)), name, style].append(ratio)

    def add(self, other: Seen) -> None:
        """Take in another part."""
        self.examples += other.examples
        self.flagged += other.flagged
        for name, found in other.largest.items():
            self.largest[name] = max(self.largest.get(name, found), found)
        for key, ratios in other.roundings.items():
            self.roundings[key] += ratios


def part(dtype: str, seed: int, examples: int) -> Seen:
    """One seed's examples of one dtype; at every fifth seed the target takes causal calls only."""
    torch.set_num_threads(1)
    seen = Seen()
    masks = (True,) if seed % 5 == 4 else (False, True)
    dtypes = tuple(sorted({"float64", dtype}, key=DTYPES.index))
    target = Target(attend=part, dtypes=dtypes, masks=masks, lse=True)
    hybrid = dataclasses.replace(target, heads_shared=2)
    session = InOneProcess(target)

    def examine(session: Session, case: Case, parameters: Parameters) -> Verdict:
        assert isinstance(session, InOneProcess)
        style = NAMES[(seed + seen.examples) % len(NAMES)]
        session.style = STYLES[style]
        session.target = hybrid if session.style.transport == "hybrid" else target
        verdict = PRECISION.examine(session, case, parameters)
        seen.record(case, style, session, verdict)
        return Verdict(0.0)  # whatever was found: the sweep goes on

    changes: dict[str, Any] = {"examine": examine, "shaped": lambda _, case: on_fewer_ranks(case, _ranks(seed))}
    if dtype == "float64":  # in which the check itself has nothing to do
        changes |= {"axes": plain(requires_grad=("qkv",)), "needs": lambda *_: "", "extra_cases": lambda *_: None}
    search(dataclasses.replace(PRECISION, **changes), session, examples=examples, seed=seed)
    return seen


def sweep(examples: int, seeds: int, jobs: int, dtypes: tuple[str, ...] = DTYPES) -> Iterator[dict[str, Seen]]:
    """So many examples per dtype, shared out to so many seeds; what has been seen, whenever a seed is through."""
    total = {dtype: Seen() for dtype in dtypes}
    with ProcessPoolExecutor(jobs) as pool:
        running = {
            pool.submit(part, dtype, seed, -(-examples // seeds)): dtype for seed in range(seeds) for dtype in dtypes
        }
        for done in as_completed(running):
            total[running[done]].add(done.result())
            yield total


def _ranks(seed: int) -> int:
    """How many ranks rounding is measured on: as the gate does, or fewer, as where there are no more GPUs."""
    return {2: 4, 3: 3}.get(seed % 4, RANKS)


def data_of(total: dict[str, Seen], seeds: int) -> dict[str, Any]:
    """What is kept of a sweep."""
    roundings: dict[str, dict[str, dict[str, Any]]] = {}
    together: Roundings = defaultdict(list)
    for seen in total.values():
        for key, ratios in seen.roundings.items():
            together[key] += ratios
    for ((ranks, branches), name, style), ratios in sorted(together.items()):
        found = {"examples": len(ratios), "style": style, "mean": np.mean(ratios), "sd": np.std(ratios)}
        found = {k: round(float(v), 4) if isinstance(v, float) else v for k, v in found.items()}
        row = roundings.setdefault(f"{ranks} ranks, {branches}", {}).setdefault(
            name, {"examples": 0, "largest": 0.0, "worst style": {}}
        )
        row["examples"] += len(ratios)
        row["largest"] = round(max(row["largest"], *ratios), 4)
        if found["mean"] > row["worst style"].get("mean", -1.0):
            row["worst style"] = found
    return {
        "seeds": seeds,
        "styles": len(STYLES),
        "examples": {dtype: seen.examples for dtype, seen in total.items()},
        "flagged": {dtype: seen.flagged for dtype, seen in total.items()},
        "largest error in units of the analysis": {
            dtype: {
                name: {"units": round(u, 4), "style": style, "case": case} for name, (u, style, case) in found.items()
            }
            for dtype, found in ((dtype, seen.largest) for dtype, seen in total.items())
        },
        "root-mean-square error in units of one rounding, by ranks and branches": roundings,
    }


def table(data: dict[str, Any]) -> Iterator[str]:
    """What a reader wants to know of a sweep."""
    yield "largest error, in units of the analysis / share of the budget"
    yield f"{'':10s}{'examples':>10s}{'flagged':>9s}" + "".join(f"{name:>18s}" for name in VALUES)
    for dtype, found in data["largest error in units of the analysis"].items():
        cells = "".join(f"{found[name]['units']:11.3f} {found[name]['units'] / CONSTANT:5.0%} " for name in found)
        yield f"{dtype:10s}{data['examples'][dtype]:10,d}{len(data['flagged'][dtype]):9d}{cells}"
    total, flagged = sum(data["examples"].values()), sum(map(len, data["flagged"].values()))
    if not flagged:
        bound = f"p < {3 / total:.1e} per example, 95 % sure (3 / N)"
        yield f"none of {total:,} flagged: a false alarm has {bound}"
    yield ""
    yield "root-mean-square error, in units of one rounding: largest seen; the worst style's mean and deviation; limit"
    for place, found in data["root-mean-square error in units of one rounding, by ranks and branches"].items():
        ranks, branches = place.split(" ranks, ")
        for name in VALUES:
            row = found[name]
            worst = row["worst style"]
            spread = f"{worst['mean']:.3f} ± {worst['sd']:.3f} ({worst['style']})"
            limit = RMS_LIMITS[int(ranks), branches][name]
            yield f"{place:18s}{name:12s}{row['examples']:7,d} {row['largest']:8.3f}   {spread:38s}{limit:6.2f}"


def main() -> None:
    """Sweep, print the table, and keep the data if asked to."""
    parser = argparse.ArgumentParser(prog="python -m tests.calibration.sweep", description=__doc__.splitlines()[0])
    parser.add_argument("--examples", type=int, default=10_000, help="per dtype (default 10,000)")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--json", help="where the data is kept")
    options = parser.parse_args()
    start = time.monotonic()
    data: dict[str, Any] = {}
    for total in sweep(options.examples, options.seeds, options.jobs):
        data = data_of(total, options.seeds)
        print(f"\r{sum(data['examples'].values()):,} examples", end="", file=sys.stderr, flush=True)
        if options.json:
            Path(options.json).write_text(json.dumps(data, indent=1) + "\n")
    print(f"\n{time.monotonic() - start:.0f} s", file=sys.stderr)
    print("\n".join(table(data)))


if __name__ == "__main__":
    main()
