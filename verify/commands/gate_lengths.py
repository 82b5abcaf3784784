"""``gate --lengths``: the long profile, printed as it goes, and continued where an earlier run was interrupted."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import sys
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace

import msgspec
import torch

from attention_gate.verify.commands.judge_target import import_elsewhere
from attention_gate.verify.commands.launched import in_launched_ranks
from attention_gate.verify.judge.session import Session
from attention_gate.verify.long.long_run import Finished, LongReport, run_lengths
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.rank.process_state import State
from attention_gate.verify.report.text_of_lengths import text_of_lengths
from attention_gate.verify.report.whole_files import write_whole
from attention_gate.verify.run.request import DEFAULT_WORLD_SIZES, Options
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.target.source import Source, parse_source
from attention_gate.verify.world.launched_ranks import LaunchedWorlds, launched_by_torchrun
from attention_gate.verify.world.local import Worlds

#: Ranks on a machine without GPUs.
_RANKS = 2


class Kept(msgspec.Struct, frozen=True):
    """What a file of finished parts holds: of which request, and the parts."""

    request: str
    finished: tuple[Finished, ...]


def judge_lengths(options: argparse.Namespace) -> int:
    """Judge the target at the lengths that were asked for; returns the exit status."""
    for name in ("junit", "html", "markdown", "compare_with"):
        if getattr(options, name) is not None:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(f"{option} is for a report of checks; with --lengths there are none: use --json")
    if launched_by_torchrun():
        return in_launched_ranks(options.device, lambda worlds: _judge(options, worlds, worlds.size), options.patience)
    size = _world_size(options)
    Options(world_sizes=(size,), device=options.device, seed=options.seed, terms=options.terms)  # or it raises
    with Worlds(device=options.device, patience=options.patience) as worlds:
        import_elsewhere(parse_source(options.target), worlds, (size,))
        return _judge(options, worlds, size)


def _judge(options: argparse.Namespace, worlds: Worlds | LaunchedWorlds, size: int) -> int:
    before = State.now()
    target, source = as_target(options.target)
    before.restore(State.now())
    target = replace(target, terms=tuple(dict.fromkeys((*target.terms, *options.terms))))
    path = os.path.join(options.save, f"{source.name}-lengths.json")
    request = _request(source, options, size)
    with closing(SimulatedWorlds()) as network:
        report = run_lengths(
            Session(target, source, worlds, (size,), network=network),
            options.lengths,
            world_size=size,
            seed=options.seed,
            patience=options.patience,
            say=lambda line: print(line, file=sys.stderr, flush=True),
            kept=_kept(path, request),
            keep=lambda finished: _keep(path, Kept(request, tuple(finished))),
        )
    print(text_of_lengths(report), flush=True)
    if options.json is not None:
        write_whole(options.json, _json(report))
    _forget(path)
    return int(report.failed)


def _world_size(options: argparse.Namespace) -> int:
    if options.world_sizes is not DEFAULT_WORLD_SIZES:
        return int(max(options.world_sizes))
    return max(1, torch.cuda.device_count()) if options.device == "cuda" else _RANKS


def _request(source: Source, options: argparse.Namespace, size: int) -> str:
    """What decides the results besides the lengths; the text of the target's file is a part of it."""
    file = source.file or getattr(sys.modules.get(str(source.module)), "__file__", None)
    if file is None:
        return ""
    with open(file, "rb") as opened:
        text = hashlib.sha256(opened.read()).hexdigest()
    return f"{source.address} {text} {options.device} {size} {options.seed} {options.terms} torch {torch.__version__}"


def _kept(path: str, request: str) -> Sequence[Finished]:
    """The parts that a run of the same request has finished; none where there is no such file."""
    try:
        with open(path, "rb") as file:
            kept = msgspec.json.decode(file.read(), type=Kept)
    except (OSError, msgspec.MsgspecError):
        return ()
    return kept.finished if request and kept.request == request else ()


def _keep(path: str, kept: Kept) -> None:
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    write_whole(path, _json(kept))


def _forget(path: str) -> None:
    """Remove the file, and its folder if nothing else is in it: a finished run is never continued."""
    with contextlib.suppress(OSError):
        os.unlink(path)
        os.rmdir(os.path.dirname(os.path.abspath(path)))


def _json(value: Kept | LongReport) -> str:
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"
