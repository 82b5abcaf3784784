"""Run one saved failing example again."""

from __future__ import annotations

import argparse

from verify.cli import CONFORMS, DOES_NOT, NOT_FINISHED
from verify.gate import examine
from verify.replay import Saved, load_saved
from verify.session import Session
from verify.target import load
from verify.world.joined import JoinedWorlds, launched_by_torchrun
from verify.world.local import Worlds

_CALLS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``replay``."""
    parser.add_argument("file", metavar="FILE", help="a failing example that gate saved")
    parser.epilog = (
        "Alone, it starts the ranks itself. Under torchrun it runs in the ranks that are there: "
        "torchrun --nproc-per-node 4 -m verify replay FILE"
    )


def run(options: argparse.Namespace) -> int:
    """Run the example; 1 if it fails, 0 if it passes now."""
    saved = load_saved(options.file)
    if launched_by_torchrun():
        return _replay_joined(saved, options.file)
    _announce(saved, options.file)
    with Worlds(device=saved.device) as worlds:
        return _replay(saved, worlds)


def _replay(saved: Saved, worlds: Worlds | JoinedWorlds) -> int:
    target = load(saved.source)
    case = saved.example.case
    session = Session(target, saved.source, worlds, tuple(range(1, case.world_size + 1)))
    tried = ((call, examine(session, saved.example)) for call in range(1, _CALLS + 1))  # some are right the first time
    call, finding = next((pair for pair in tried if pair[1] is not None), (_CALLS, None))
    if finding is None:
        print(f"{saved.example.check} passes on this example now")
        return CONFORMS
    print(f"{finding.outcome}: {finding.headline}" + (f" (in call {call}; earlier ones were right)" * (call > 1)))
    for line in finding.details:
        print(f"  {line}")
    return DOES_NOT


def _replay_joined(saved: Saved, path: str) -> int:
    with JoinedWorlds(saved.device) as worlds:
        if worlds.size != saved.example.case.world_size:
            if worlds.rank == 0:
                print(f"this example needs {saved.example.case.world_size} ranks; torchrun launched {worlds.size}")
            return NOT_FINISHED
        if worlds.rank != 0:
            return worlds.serve()
        _announce(saved, path)
        status = _replay(saved, worlds)
        worlds.dismiss(status)
        return status


def _announce(saved: Saved, path: str) -> None:
    """Say what is about to be imported and run, before it is."""
    print(f"{path}: {saved.headline}")
    print(f"importing the target {saved.source} and trying {saved.example.check} on {saved.example.case!r}")
    if saved.example.detail:
        print(f"with {', '.join(f'{name}={value!r}' for name, value in saved.example.detail.items())}")
