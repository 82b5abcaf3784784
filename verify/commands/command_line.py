"""The command line: ``python -m attention_gate COMMAND …``, or ``attention-gate COMMAND …``."""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib
import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import NoReturn

from attention_gate.verify.target.choices import did_you_mean
from attention_gate.verify.world import fork_client

#: Commands in the order of the help; each is a module of verify.commands, imported when it is asked for.
COMMANDS = {
    "gate": "judge an implementation",
    "replay": "run one saved failing example again",
    "mutants": "judge the gate itself: every known mistake must be caught",
    "init": "write the test and the CI lines that judge an implementation",
    "compare": "time and memory of implementations, side by side in one run",
    "doctor": "say what this machine can run, with a tiny real exchange on each backend",
}

#: Commands that always start ranks on this machine, unless a launcher has.
WITH_RANKS = ("gate", "replay")

#: Options that print something and end, without any rank.
_QUICK = {"-h", "--help", "--version", "--list-checks"}

#: Exit statuses: conforms, does not, cannot be judged, the harness failed or did not finish.
CONFORMS, DOES_NOT, CANNOT_BE_JUDGED, NOT_FINISHED = range(4)


class UsageError(Exception):
    """A usage error: one line that says what to do."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status. Errors of use are one line on standard error, never a traceback."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _terminate)
        return _main(arguments)
    except KeyboardInterrupt:
        return _refuse("interrupted", NOT_FINISHED)
    except Exception as error:
        return _refuse(f"the harness failed: {type(error).__name__}: {' '.join(str(error).split())}", NOT_FINISHED)


def entry() -> NoReturn:
    """What the console script calls: ``main``, then the end of the process, whatever the target left running in it."""
    gc.disable()  # until the command is imported
    with contextlib.suppress(OSError):  # a current folder that no longer exists has no modules
        put_first(os.getcwd())
    try:
        try:
            status = main()
        finally:
            _ignore_interruptions()
    except KeyboardInterrupt:  # once more, while what the first one had interrupted was being ended
        status = NOT_FINISHED
    _ignore_interruptions()
    fork_client.shut_down()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):
            stream.flush()
    os._exit(status)


def _ignore_interruptions() -> None:
    """Ignore signals from now on: the output is complete, and its ranks must be ended without interruption."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def put_first(folder: str) -> None:
    """Let modules be found in that folder first, as ``python -m`` does; in safe-path mode (-P) it does not."""
    if not sys.flags.safe_path and sys.path[:1] != [folder]:
        sys.path.insert(0, folder)


def _main(arguments: list[str]) -> int:
    if arguments and arguments[0] in WITH_RANKS and "RANK" not in os.environ and not _QUICK & set(arguments):
        fork_client.start_early()  # it imports torch while this process does
    try:
        command = arguments[0] if arguments else ""
        if command and not command.startswith("-") and command not in COMMANDS:
            near = did_you_mean(command, COMMANDS)
            return _refuse(f"{command!r} is no command; choose from {', '.join(COMMANDS)}{near}")
        options = _parser(command).parse_args(arguments)
        from attention_gate.verify.report.saved_examples import ReplayError
        from attention_gate.verify.target.source import TargetError
        from attention_gate.verify.world.local import WorldError
    except ImportError as error:
        return _refuse(f"{error}; attention-gate needs torch, numpy and hypothesis: pip install torch numpy hypothesis")
    try:
        module = importlib.import_module(f"attention_gate.verify.commands.{options.command}")
        if not gc.isenabled():  # by entry(): what has been imported stays, and no collection need look through it
            gc.freeze()
            gc.enable()
        status: int = module.run(options)
        sys.stdout.flush()
        return status
    except (UsageError, TargetError, ReplayError, ValueError) as error:
        return _refuse(in_lines(error))
    except WorldError as error:
        return _refuse(in_lines(error), NOT_FINISHED)
    except BrokenPipeError:
        # The reader of our output went away: nothing more can be said.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_FINISHED
    except OSError as error:
        return _refuse(in_lines(error), NOT_FINISHED)


class Version(argparse.Action):
    """Prints the versions and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """As argparse calls it once it meets the option."""
        from attention_gate.verify.commands.versions import versions

        print(versions())
        parser.exit()


class ListChecks(argparse.Action):
    """Prints every check and ends."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """As argparse calls it once it meets the option."""
        from attention_gate.verify.commands.check_list import check_list

        print(check_list())
        parser.exit()


def _parser(command: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="attention-gate",
        description="Judges distributed attention against a float64 oracle, gradients included.",
        epilog="exit status: 0 conforms, 1 does not, 2 cannot be judged, 3 the harness failed or did not finish",
    )
    parser.add_argument("--version", action=Version, nargs=0, help="print the versions of the gate, torch and Python")
    parser.add_argument("--list-checks", action=ListChecks, nargs=0, help="print what is checked, and end")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, words in COMMANDS.items():
        subparser = subparsers.add_parser(name, help=words, description=words[0].upper() + words[1:] + ".")
        if name == command:
            importlib.import_module(f"attention_gate.verify.commands.{name}").add_arguments(subparser)
    return parser


def in_lines(error: Exception) -> str:
    """What is printed of an error of use: one line; of a signature that does not fit, an adapter below it."""
    from attention_gate.verify.target.call_signature import SignatureError

    return str(error) if isinstance(error, SignatureError) else " ".join(str(error).split())


def _refuse(message: str, status: int = CANNOT_BE_JUDGED) -> int:
    print(f"attention-gate: {message}", file=sys.stderr)
    return status


def _terminate(*_: object) -> None:
    raise KeyboardInterrupt  # SIGTERM ends a run as Ctrl-C does: the worlds are closed, the rest is reported


if __name__ == "__main__":
    entry()
