"""Run one saved failing example again."""

from __future__ import annotations

import argparse
from contextlib import closing

from attention_gate.verify.commands.command_line import CONFORMS, DOES_NOT
from attention_gate.verify.commands.gate import patience
from attention_gate.verify.commands.launched import in_launched_ranks
from attention_gate.verify.judge.session import Session
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.report.saved_examples import Saved, load_saved
from attention_gate.verify.run.repetition import examine
from attention_gate.verify.target.loading import load
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.finding import Finding
from attention_gate.verify.world.launched_ranks import LaunchedWorlds, launched_by_torchrun
from attention_gate.verify.world.local import Worlds

_CALLS = 3


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``replay``."""
    parser.add_argument("file", metavar="FILE", help="a failing example that gate saved")
    parser.add_argument("--patience", type=patience, metavar="S", help="as of gate: how long a call may work")
    parser.epilog = (
        "Alone, it starts the ranks itself. Under torchrun it runs in the ranks that are there: "
        "torchrun --nproc-per-node 4 -m attention_gate replay FILE"
    )


def run(options: argparse.Namespace) -> int:
    """Run the example; 1 if it fails, 0 if it passes now."""
    saved = load_saved(options.file)
    if launched_by_torchrun():
        return in_launched_ranks(saved.device, lambda worlds: _replay(saved, options.file, worlds), options.patience)
    with Worlds(device=saved.device, patience=options.patience) as worlds:
        return _replay(saved, options.file, worlds)


def replay(path: str, *, patience: float | None = None) -> Finding | None:
    """Run a saved failing example again, in ranks that this call starts; what is wrong, or None if it passes now.

    >>> attention_gate.replay("attention-gate-failures/attend-forward.json")
    Finding(outcome='fail', headline='the output is wrong in 2 of 2 elements, on rank 0', …)

    Raises ReplayError if the file is no saved example, TargetError if its target does not load.
    """
    saved = load_saved(path)
    with Worlds(device=saved.device, patience=patience) as worlds:
        session = _session(saved, load(saved.source), worlds)
        with closing(session.network):
            for one in saved.history:
                examine(session, one)
            return next((found for _ in range(_CALLS) if (found := examine(session, saved.example))), None)


def _session(saved: Saved, target: Target, worlds: Worlds | LaunchedWorlds) -> Session:
    """What its example is examined with; the caller closes its network."""
    largest = max(one.case.world_size for one in (saved.example, *saved.history))
    network = SimulatedWorlds(device=worlds.device, patience=worlds.patience)
    return Session(target, saved.source, worlds, tuple(range(1, largest + 1)), network=network)


def _replay(saved: Saved, path: str, worlds: Worlds | LaunchedWorlds) -> int:
    _announce(saved, path)
    target = load(saved.source)
    if isinstance(worlds, LaunchedWorlds) and (reason := _misfit(saved, target, worlds.size)):
        raise ValueError(reason)
    session = _session(saved, target, worlds)
    with closing(session.network):
        return _tried(saved, session)


def _tried(saved: Saved, session: Session) -> int:
    for one in saved.history:
        before = examine(session, one)
        print(f"called before: {one.check} on {one.case!r}: {'right' if before is None else before.headline}")
    tried = ((call, examine(session, saved.example)) for call in range(1, _CALLS + 1))  # some are right the first time
    call, finding = next((pair for pair in tried if pair[1] is not None), (_CALLS, None))
    if finding is None:
        print(f"{saved.example.check} passes on this example now")
        return CONFORMS
    print(f"{finding.outcome}: {finding.headline}" + (f" (in call {call}; earlier ones were right)" * (call > 1)))
    for line in finding.details:
        print(f"  {line}")
    return DOES_NOT


def _misfit(saved: Saved, target: Target, launched: int) -> str:
    """Why the example cannot be tried in that many launched ranks; empty if it can.

    Fewer ranks than were launched are a group of the first ones; a simulated network starts its own ranks.
    """
    real = [one for one in (saved.example, *saved.history) if one.check not in SimulatedWorlds.checks]
    needed = max((one.case.world_size for one in real), default=launched)
    if needed == launched:
        return ""
    if needed > launched:
        return f"this example needs {needed} ranks; {launched} were launched"
    if not target.subgroups:
        return f"this example needs {needed} ranks, as its target takes no sub-groups; {launched} were launched"
    return ""


def _announce(saved: Saved, path: str) -> None:
    """Say what is about to be imported and run, before it is."""
    print(f"{path}: {saved.headline}")
    print(f"importing the target {saved.source} and trying {saved.example.check} on {saved.example.case!r}")
    if saved.example.parameters:
        print(f"with {', '.join(f'{name}={value!r}' for name, value in saved.example.parameters.items())}")
