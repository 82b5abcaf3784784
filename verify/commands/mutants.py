"""Judge the gate itself: every known mistake must be caught, and a change without effect must not."""

from __future__ import annotations

import argparse
import json
import sys
import time

from attention_gate.verify.checks.profiles import PROFILES
from attention_gate.verify.commands.command_line import CONFORMS, DOES_NOT
from attention_gate.verify.commands.gate import profile
from attention_gate.verify.commands.machine import cores
from attention_gate.verify.mutants import KNOWN, MUTANTS, OTHERS, STREAM_MISTAKES, Mutant
from attention_gate.verify.mutants.kill_matrix import record, to_json
from attention_gate.verify.mutants.matrix_page import html
from attention_gate.verify.mutants.matrix_table import line, matrix, summary
from attention_gate.verify.mutants.side_by_side import Task, tried
from attention_gate.verify.mutants.trial import Trial
from attention_gate.verify.report.whole_files import check_writable, write_whole
from attention_gate.verify.world.transports import gpus

#: Number of seeds that draw examples for each known mistake, unless the user says how many.
KNOWN_SEEDS = 10


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``mutants``."""
    parser.add_argument(
        "--profile", type=profile, default="standard", metavar="P", help=f"which examples: {', '.join(PROFILES)}"
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the first seed (default: 0)")
    parser.add_argument(
        "--seeds",
        type=int,
        metavar="N",
        help=f"how many seeds (default: {KNOWN_SEEDS} for the known mistakes, 1 for their variants)",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cuda: the mistakes in the order of streams, which show on a GPU alone, and those of --only",
    )
    parser.add_argument(
        "--jobs",
        type=int,
        metavar="N",
        help="how many processes try mutants (default: one more than cores; on a GPU one)",
    )
    parser.add_argument("--only", metavar="M08,X12", help="only these mutants, or those whose names begin so")
    parser.add_argument("--brief", action="store_true", help="no matrix and no minimal cases: only what catches each")
    parser.add_argument("--json", metavar="FILE", help="write all numbers as JSON")
    parser.add_argument("--html", metavar="FILE", help="write the matrix as one HTML file")
    parser.add_argument(
        "--record", action="store_true", help="keep the matrix as the one that reports quote; with --only, those rows"
    )


def run(options: argparse.Namespace) -> int:
    """Try the mutants, print the matrix; 0 if each was caught that should be, and none that should not."""
    if options.seeds is not None and options.seeds < 1:
        raise ValueError(f"--seeds is {options.seeds}; it must be at least 1")
    if options.jobs is not None and options.jobs < 1:
        raise ValueError(f"--jobs is {options.jobs}; it must be at least 1")
    for path in (options.json, options.html):
        if path is not None:
            check_writable(path)
    if options.device == "cuda" and not gpus():
        raise ValueError("--device is cuda, but this machine has no CUDA device; allowed here is cpu")
    if options.record and options.device != "cpu":
        raise ValueError("--record keeps the matrix of --device cpu, and --device is cuda")
    start = time.monotonic()
    trials = _tried(_wanted(options.only, options.device), options, start)
    seconds = time.monotonic() - start
    data = to_json(trials, profile=options.profile, seconds=seconds)
    if options.json is not None:
        write_whole(options.json, json.dumps(data, indent=1) + "\n")
    if options.record:
        record(data)
    conclusions = _conclusions(trials, seconds)
    _conclude(trials, options.seed, conclusions, not options.brief)
    if options.html is not None:
        write_whole(options.html, html(trials, conclusions))
    return CONFORMS if all(trial.as_expected for trial in trials) else DOES_NOT


def _tried(wanted: list[Mutant], options: argparse.Namespace, start: float) -> list[Trial]:
    """The trials of all mutants at all seeds; a line for each mutant in their order, and what is not as expected."""
    tasks = []
    for mutant in wanted:
        # Of a variant with optional terms its minimal case says which targets it concerns.
        short = mutant in (*OTHERS, *STREAM_MISTAKES) and "terms" not in mutant.capabilities
        tasks.append(Task(mutant.name, options.seed, whole=not short and not options.brief))
    for seed in range(options.seed + 1, options.seed + (options.seeds or KNOWN_SEEDS)):
        again = [mutant for mutant in wanted if mutant in KNOWN or (options.seeds and not mutant.keeps)]
        tasks += [Task(mutant.name, seed, again=True) for mutant in again]
    found: dict[Task, Trial] = {}
    ahead = [task for task in tasks if not task.again]
    # One more than cores: one of them often waits for ranks that hang.
    jobs = options.jobs or (1 + cores() if options.device == "cpu" else 1)
    for done, trial in tried(tasks, profile=options.profile, device=options.device, jobs=jobs):
        found[done] = trial
        while ahead and ahead[0] in found:
            print(line(found[ahead.pop(0)]), flush=True)
        if done.again and not trial.as_expected:
            print(f"seed {done.seed}: {line(trial)}", flush=True)
        if not any(task.seed == done.seed and task not in found for task in tasks):
            print(f"seed {done.seed} done after {time.monotonic() - start:.0f} s", file=sys.stderr)
    return [found[task] for task in tasks]


def _wanted(only: str | None, device: str) -> list[Mutant]:
    tried = MUTANTS if device == "cpu" else (*STREAM_MISTAKES, *MUTANTS)
    if only is None:
        return list(MUTANTS if device == "cpu" else STREAM_MISTAKES)
    prefixes = [prefix.strip().upper() for prefix in only.split(",")]
    for prefix in prefixes:
        if not prefix or not any(mutant.name.startswith(prefix) for mutant in tried):
            raise ValueError(
                f"--only {only}: no mutant's name begins with {prefix!r}; "
                f"they go from {KNOWN[0].name} to {KNOWN[-1].name}, others begin with X or E"
            )
    return [mutant for mutant in tried if mutant.name.startswith(tuple(prefixes))]


def _conclude(trials: list[Trial], seed: int, conclusions: list[str], whole: bool) -> None:
    if whole:
        brief = (*OTHERS, *STREAM_MISTAKES)
        print()
        print("\n".join(matrix([trial for trial in trials if trial.seed == seed and trial.mutant not in brief])))
    print()
    print("\n".join(conclusions))


def _conclusions(trials: list[Trial], seconds: float) -> list[str]:
    """How many of each kind were caught, and how soon."""
    named = (KNOWN, "known mistakes"), (OTHERS, "variants of them"), (STREAM_MISTAKES, "mistakes in order of streams")
    lines = []
    for mutants, what in named:
        lines += summary([trial for trial in trials if trial.mutant in mutants], what)
    kept = [trial for trial in trials if trial.mutant.keeps]
    if kept:
        lines.append(f"{sum(not trial.caught for trial in kept)} of {len(kept)} changes without effect passed")
    if not any(trial.mutant in STREAM_MISTAKES for trial in trials):
        number = len(STREAM_MISTAKES)
        lines.append(f"{number} mistakes in the order of streams show on a GPU alone: --device cuda tries them")
    return [*lines, f"{seconds:.0f} s in all"]
