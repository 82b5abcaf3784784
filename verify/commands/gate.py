"""Judge an implementation."""

from __future__ import annotations

import argparse
import json
import os

from verify.checks import BY_NAME
from verify.gate import DEFAULT_WORLD_SIZES, check
from verify.profiles import PROFILES
from verify.progress import ProgressLine
from verify.replay import write_whole
from verify.report_text import text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``gate``."""
    parser.add_argument("target", metavar="TARGET", help="module:name or path/to/file.py:name")
    parser.add_argument(
        "--profile",
        choices=tuple(PROFILES),
        default="standard",
        help="how much is tried: about 20 s, 90 s, 10 min on two cores (default: standard)",
    )
    parser.add_argument(
        "--world-sizes",
        type=world_sizes,
        default=DEFAULT_WORLD_SIZES,
        metavar="1,2,3,4",
        help="numbers of ranks (default: 1,2,3,4)",
    )
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="gloo or NCCL (default: cpu)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which examples are tried (default: 0)")
    parser.add_argument(
        "--checks", type=checks, metavar="A,B", help=f"only these checks; there are {', '.join(BY_NAME)}"
    )
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first check that fails")
    parser.add_argument("--json", metavar="FILE", help="write the report as JSON")
    parser.add_argument("--junit", metavar="FILE", help="write the report as JUnit XML")
    parser.add_argument(
        "--save",
        metavar="DIR",
        default="attention-gate-failures",
        help="folder for failing examples, made if there are any (default: attention-gate-failures)",
    )


def run(options: argparse.Namespace) -> int:
    """Judge the target, print the report, write the files; returns the exit status."""
    for path in (options.json, options.junit):
        if path is not None and not os.path.isdir(os.path.dirname(os.path.abspath(path))):
            raise ValueError(f"the folder of {path} is not there")
    with ProgressLine() as progress:
        report = check(
            options.target,
            profile=options.profile,
            world_sizes=options.world_sizes,
            device=options.device,
            seed=options.seed,
            checks=options.checks,
            fail_fast=options.fail_fast,
            save=options.save,
            progress=progress,
        )
    print(text(report))
    if options.json is not None:
        write_whole(options.json, json.dumps(report.to_json(), indent=2) + "\n")
    if options.junit is not None:
        from verify.junit import junit

        write_whole(options.junit, junit(report))
    return report.exit_status


def world_sizes(text: str) -> tuple[int, ...]:
    """ "1,2,4" as numbers; argparse reports what is wrong."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or any(not 1 <= size <= 64 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers from 1 to 64, such as 1,2,4")
    return tuple(sorted(set(sizes)))


def checks(text: str) -> tuple[str, ...]:
    """ "forward,gradients" as names of checks; argparse reports what is wrong."""
    names = tuple(text.split(","))
    if unknown := [name for name in names if name not in BY_NAME]:
        raise argparse.ArgumentTypeError(f"there is no check {unknown[0]!r}; there are {', '.join(BY_NAME)}")
    return names
