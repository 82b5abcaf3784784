"""Measure implementations side by side."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import closing

import torch

from attention_gate.verify.commands.command_line import NOT_FINISHED
from attention_gate.verify.compare import bytes_sent, drawn_runs, tables, timing
from attention_gate.verify.compare.comparison_page import html
from attention_gate.verify.compare.judged_rows import judged
from attention_gate.verify.compare.measured_rows import measure
from attention_gate.verify.compare.workloads import WORKLOADS
from attention_gate.verify.report import plots
from attention_gate.verify.report.whole_files import check_writable, write_whole
from attention_gate.verify.target.loading import as_target


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``compare``."""
    parser.add_argument("targets", nargs="+", metavar="TARGET", help="module:name or path/to/file.py:name")
    parser.add_argument(
        "--workload", required=True, type=_workloads, metavar="A,B", help=f"what to measure: {', '.join(WORKLOADS)}"
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="gloo or NCCL (default: cpu)")
    parser.add_argument("--world-size", type=int, metavar="P", help="ranks (default: all GPUs, or 2 on the CPU)")
    parser.add_argument("--limit", type=float, default=120.0, metavar="S", help="seconds per target (default: 120)")
    parser.add_argument(
        "--unjudged", action="store_true", help="measure only: do not judge whether outputs and gradients are right"
    )
    parser.add_argument(
        "--cuda-graphs",
        action="store_true",
        help="time passes captured in CUDA graphs, which do not wait for the host, the floor's too (--device cuda)",
    )
    parser.add_argument("--json", metavar="FILE", help="write what was measured as JSON")
    parser.add_argument(
        "--plot", metavar="FILE", help="write fractions of the floor as SVG (needs attention-gate[report])"
    )
    parser.add_argument(
        "--html", metavar="FILE", help="write tables, plot and timelines as HTML (needs attention-gate[report])"
    )
    parser.add_argument(
        "--timelines",
        metavar="FILE",
        help="draw when the ranks of each target compute, wait and send, as SVG: a small call in the shape of each "
        "workload on the simulated network, delivery as on NCCL; a target that hangs there is drawn up to its deadlock",
    )


def run(options: argparse.Namespace) -> int:
    """Measure the floor and each target, print a table for each workload, write the files.

    Returns 1 if a target failed at it or is wrong, 0 if none did, 3 if it was stopped early: what was measured so far
    is printed and written.
    """
    size = _world_size(options)
    if options.cuda_graphs and options.device != "cuda":
        raise ValueError(f"--cuda-graphs needs --device cuda, and --device is {options.device}")
    for path in (options.json, options.plot, options.html, options.timelines):
        if path is not None:
            check_writable(path)
    if options.plot is not None or options.html is not None:
        plots.needed()
    if options.timelines is not None:
        drawn_runs.check_size(size)
    targets = tuple(dict.fromkeys(options.targets))
    for target in targets:
        as_target(target)
    where = torch.cuda.get_device_name() if options.device == "cuda" else "cpu"
    calls = "CUDA graphs replayed in a row" if options.cuda_graphs else "calls in a row"
    print(f"{size} ranks, {where}, torch {torch.__version__}; medians of the slowest rank, {calls}\n", flush=True)
    rows: tables.Rows = {name: {} for name in options.workload}
    ended = False
    try:
        _measure_all(options, targets, size, rows)
    except KeyboardInterrupt:  # SIGTERM too
        ended = True
        so_far = {name: measured for name, measured in rows.items() if measured}
        print(f"stopped early; measured so far:\n\n{tables.text(so_far)}" if so_far else "stopped early")
    if options.json is not None:
        facts = {"world_size": size, "device": where, "torch": torch.__version__, "cuda_graphs": options.cuda_graphs}
        report = {"schema": 1, **facts, "rows": rows}
        write_whole(options.json, json.dumps(report, indent=2) + "\n")
    if options.plot is not None:
        write_whole(options.plot, plots.fractions(tables.fractions(rows)))
    drawn: list[drawn_runs.Drawing] = []
    if not ended and (options.timelines is not None or (options.html is not None and size <= drawn_runs.MOST_RANKS)):
        drawn = drawn_runs.drawings(targets, options.workload, size)
        if stopped := drawn_runs.text(drawn):
            print(f"\n{stopped}")
    if drawn and options.timelines is not None:
        write_whole(options.timelines, drawn_runs.picture(drawn))
    if options.html is not None:
        shown = {"ranks": str(size), "device": where, "torch": torch.__version__, "timed": calls}
        write_whole(options.html, html(rows, drawn, shown))
    if ended:
        return NOT_FINISHED
    failed = any("error" in entry or "wrong" in entry for measured in rows.values() for entry in measured.values())
    return int(failed or any(drawing.stopped for drawing in drawn))


def _world_size(options: argparse.Namespace) -> int:
    count = torch.cuda.device_count() if options.device == "cuda" else 2
    size: int = count if options.world_size is None else options.world_size
    if options.device == "cuda" and (size > count or not count):
        raise ValueError(f"--device cuda needs a GPU for each rank, and this machine has {count}")
    if not 1 <= size <= 64:
        raise ValueError(f"--world-size is {size}; it must be from 1 to 64")
    return size


def _measure_all(options: argparse.Namespace, targets: tuple[str, ...], size: int, rows: tables.Rows) -> None:
    """Fill in the rows; lines on standard error as each begins and ends, and each table once it is complete."""
    for row in (timing.FLOOR, *targets):
        print(f"{row}: starting {size} ranks, then {', '.join(options.workload)}", file=sys.stderr, flush=True)
        # Closed at once where Ctrl-C ends it between two workloads: its ranks must not wait for the garbage collector.
        with closing(
            measure(row, options.workload, options.device, size, options.limit, options.cuda_graphs)
        ) as measuring:
            for name, measured in measuring:
                rows[name][row] = measured
                if options.device == "cpu" and row != timing.FLOOR and "both_ms" in measured:
                    sent = bytes_sent.simulated(row, name, size)
                    measured.update({} if sent is None else {"sent_bytes": sent})
                print(f"{name}: {row}: {tables.brief(measured)}", file=sys.stderr, flush=True)
        if row != timing.FLOOR and not options.unjudged:
            _judge(row, options, size, rows)
    for name, measured in rows.items():
        print(tables.text({name: measured}) + "\n", flush=True)


def _judge(row: str, options: argparse.Namespace, size: int, rows: tables.Rows) -> None:
    """Add to what was measured whether it was right."""
    names = [name for name in options.workload if "both_ms" in rows[name].get(row, {})]
    for name, said in judged(row, names, size, options.device, options.limit).items():
        rows[name][row].update(said)
        print(f"{name}: {row}: {tables.verdict(said)}", file=sys.stderr, flush=True)


def _workloads(text: str) -> tuple[str, ...]:
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in WORKLOADS]:
        raise argparse.ArgumentTypeError(f"unknown workload {unknown[0]!r}; choose from {', '.join(WORKLOADS)}")
    return names
