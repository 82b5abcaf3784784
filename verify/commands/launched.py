"""A command under torchrun: rank 0 runs it, the other ranks serve until it is done."""

from __future__ import annotations

import sys
from collections.abc import Callable

from attention_gate.verify.commands.command_line import CANNOT_BE_JUDGED, NOT_FINISHED, in_lines
from attention_gate.verify.target.source import TargetError
from attention_gate.verify.world.launched_ranks import LaunchedWorlds


def in_launched_ranks(device: str, carry_out: Callable[[LaunchedWorlds], int], patience: float | None = None) -> int:
    """On every rank, the exit status of ``carry_out`` on rank 0, which prints why a target cannot be judged."""
    with LaunchedWorlds(device, patience=patience) as worlds:
        if worlds.rank != 0:
            return worlds.serve()
        status = NOT_FINISHED
        try:
            status = carry_out(worlds)
        except (TargetError, ValueError) as error:
            status = CANNOT_BE_JUDGED
            print(f"attention-gate: {in_lines(error)}", file=sys.stderr)
        finally:
            # Output must be complete now: the launcher ends this process as soon as one of them has failed.
            sys.stdout.flush()
            sys.stderr.flush()
            worlds.dismiss(status)
        return status
