"""A command in the ranks that torchrun launched: rank 0 carries it out, the others keep theirs until it is done."""

from __future__ import annotations

import sys
from collections.abc import Callable

from attention_gate.verify.commands.command_line import CANNOT_BE_JUDGED, NOT_FINISHED
from attention_gate.verify.target.source import TargetError
from attention_gate.verify.world.launched_ranks import LaunchedWorlds


def in_launched_ranks(device: str, carry_out: Callable[[LaunchedWorlds], int], patience: float | None = None) -> int:
    """The exit status that ``carry_out`` gives on rank 0, on every rank; what cannot be judged is told by rank 0."""
    with LaunchedWorlds(device, patience=patience) as worlds:
        if worlds.rank != 0:
            return worlds.serve()
        status = NOT_FINISHED
        try:
            status = carry_out(worlds)
        except (TargetError, ValueError) as error:
            status = CANNOT_BE_JUDGED
            print(f"attention-gate: {' '.join(str(error).split())}", file=sys.stderr)
        finally:
            # All is said before the others leave: their launcher ends this process as soon as one of them has failed.
            sys.stdout.flush()
            sys.stderr.flush()
            worlds.dismiss(status)
        return status
