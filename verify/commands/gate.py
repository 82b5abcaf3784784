"""Judge an implementation."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from typing import Any

from attention_gate.verify.case.case import MAX_LENGTH
from attention_gate.verify.checks import BY_NAME, CHECKS, Check
from attention_gate.verify.checks.profiles import PROFILES
from attention_gate.verify.commands.command_line import ListChecks
from attention_gate.verify.commands.judge_target import check, check_launched
from attention_gate.verify.commands.launched import in_launched_ranks
from attention_gate.verify.commands.outputs import add_outputs, check_outputs, tell
from attention_gate.verify.report.progress import progress_of
from attention_gate.verify.run.request import DEFAULT_WORLD_SIZES, Options
from attention_gate.verify.target.choices import TERMS, did_you_mean
from attention_gate.verify.target.target import CLAIMS
from attention_gate.verify.world.launched_ranks import LaunchedWorlds, launched_by_torchrun
from attention_gate.verify.world.patience import BUSY, FIRST


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``gate``."""
    parser.add_argument("target", metavar="TARGET", help="module:name or path/to/file.py:name")
    parser.add_argument(
        "--profile",
        type=profile,
        default="standard",
        metavar="P",
        help=f"{', '.join(PROFILES)}: how much is tried: about 265, 1,850 or 18,400 examples (default: standard)",
    )
    parser.add_argument(
        "--world-sizes",
        type=world_sizes,
        default=DEFAULT_WORLD_SIZES,
        metavar="1,2,3,4",
        help="numbers of ranks (default: 1,2,3,4); sub-groups are formed inside these worlds; the simulated network "
        "may use more ranks, which the report says",
    )
    parser.add_argument(
        "--device",
        choices=("cpu", "cuda"),
        default="cpu",
        help="cpu: gloo; cuda: NCCL where each rank has a GPU, else ranks share GPUs (default: cpu)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="which examples are tried (default: 0)")
    parser.add_argument("--list-checks", action=ListChecks, nargs=0, help="print what is checked, and end")
    parser.add_argument("--checks", type=checks, metavar="A,B", help=f"only these checks, of {', '.join(BY_NAME)}")
    parser.add_argument(
        "--claims", type=claims, default=(), metavar="A,B", help=f"additional promises to check: {', '.join(CLAIMS)}"
    )
    parser.add_argument(
        "--patience",
        type=patience,
        metavar="S",
        help=f"seconds that a call may work without an end (default: {BUSY:.0f}; the first call of a process "
        f"{FIRST:.0f}); all other limits are stretched by as much",
    )
    parser.add_argument(
        "--terms",
        type=terms,
        default=(),
        metavar="A,B",
        help=f"optional terms that it takes: all, or some of {', '.join(TERMS)} (default: those that it declares)",
    )
    parser.add_argument(
        "--lengths",
        type=lengths,
        metavar="N,N",
        help="judge long sequences instead, such as 65536,1048576, by sampled rows and by laws on every row; on the "
        "largest world size (default: 2; with cuda all GPUs); continues an interrupted run",
    )
    parser.add_argument("--fail-fast", action="store_true", help="stop at the first check that fails")
    add_outputs(parser)
    parser.add_argument(
        "--save",
        metavar="DIR",
        default="attention-gate-failures",
        help="folder for failing examples, created when one is found (default: attention-gate-failures)",
    )


def run(options: argparse.Namespace) -> int:
    """Judge the target, print the report, write the files; returns the exit status."""
    check_outputs(options)
    if options.lengths:
        from attention_gate.verify.commands.gate_lengths import judge_lengths

        return judge_lengths(options)
    if launched_by_torchrun():
        return in_launched_ranks(options.device, lambda worlds: _judge_launched(options, worlds), options.patience)
    with progress_of(_wanted(options), options.profile) as progress:
        report = check(options.target, world_sizes=options.world_sizes, progress=progress, **_asked(options))
    return tell(report, options)


def _judge_launched(options: argparse.Namespace, worlds: LaunchedWorlds) -> int:
    sizes = _within(options.world_sizes, worlds.size)
    with progress_of(_wanted(options), options.profile) as progress:
        report = check_launched(options.target, worlds, Options(world_sizes=sizes, **_asked(options)), progress)
    return tell(report, options)


def _asked(options: argparse.Namespace) -> dict[str, Any]:
    """Options that are the same for local and launched ranks."""
    names = ("profile", "device", "seed", "checks", "fail_fast", "save", "claims", "terms", "patience")
    return {name: getattr(options, name) for name in names} | {"pictures": options.html is not None}


def _within(sizes: tuple[int, ...], launched: int) -> tuple[int, ...]:
    """The numbers of ranks to judge in a launched world: by default the usual ones and that of all ranks."""
    if sizes is DEFAULT_WORLD_SIZES:
        return tuple(sorted({size for size in sizes if size <= launched} | {launched}))
    if max(sizes) > launched:
        raise ValueError(f"--world-sizes asks for {max(sizes)} ranks, but {launched} were launched")
    return sizes


def _wanted(options: argparse.Namespace) -> list[Check]:
    return [check for check in CHECKS if options.checks is None or check.name in options.checks]


def profile(text: str) -> str:
    """ "quick"; argparse reports what is wrong."""
    return _names(text, "profile", PROFILES, several=False)[0]


def world_sizes(text: str) -> tuple[int, ...]:
    """ "1,2,4" as numbers; argparse reports what is wrong."""
    try:
        sizes = tuple(int(part) for part in text.split(","))
    except ValueError:
        sizes = ()
    if not sizes or any(not 1 <= size <= 64 for size in sizes):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of numbers from 1 to 64, such as 1,2,4")
    return tuple(sorted(set(sizes)))


def lengths(text: str) -> tuple[int, ...]:
    """ "65536,1048576" as numbers; argparse reports what is wrong."""
    try:
        found = tuple(int(part) for part in text.split(","))
    except ValueError:
        found = ()
    if not found or any(not 1 <= length <= MAX_LENGTH for length in found):
        allowed = f"a list of lengths from 1 to {MAX_LENGTH}, such as 65536,1048576"
        raise argparse.ArgumentTypeError(f"{text!r} is not {allowed}")
    return tuple(sorted(set(found)))


def patience(text: str) -> float:
    """ "30" as seconds; argparse reports what is wrong."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, such as 30")
    return seconds


def claims(text: str) -> tuple[str, ...]:
    """ "traffic,memory" as claims; argparse reports what is wrong."""
    return _names(text, "claim", CLAIMS)


def terms(text: str) -> tuple[str, ...]:
    """ "window,sink" as terms, "all" as all of them; argparse reports what is wrong."""
    return tuple(TERMS) if text == "all" else _names(text, "term", TERMS)


def checks(text: str) -> tuple[str, ...]:
    """ "forward,gradients" as names of checks; argparse reports what is wrong."""
    return _names(text, "check", BY_NAME)


def _names(text: str, what: str, allowed: Collection[str], *, several: bool = True) -> tuple[str, ...]:
    names = tuple(text.split(",")) if several else (text,)
    if unknown := [name for name in names if name not in allowed]:
        near = did_you_mean(unknown[0], allowed)
        raise argparse.ArgumentTypeError(f"unknown {what} {unknown[0]!r}; choose from {', '.join(allowed)}{near}")
    return names
