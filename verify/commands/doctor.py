"""Say what this machine can run."""

from __future__ import annotations

import argparse
import json

from attention_gate.verify.commands.command_line import CANNOT_BE_JUDGED, CONFORMS
from attention_gate.verify.commands.machine import Fact, can_run, facts
from attention_gate.verify.report.whole_files import check_writable, write_whole


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``doctor``."""
    parser.add_argument("--json", metavar="FILE", help="write the facts as JSON")
    parser.epilog = "exit status: 0 if the gate can run on the CPU, 2 if it cannot"


def run(options: argparse.Namespace) -> int:
    """Find out and print; 0 if the gate can run on the CPU."""
    if options.json is not None:
        check_writable(options.json)
    found = []
    for fact in facts():
        found.append(fact)
        print(line(fact), flush=True)
    able = can_run(found)
    print(f"\nthe gate {'can' if able else 'cannot'} run on the CPU of this machine")
    if options.json is not None:
        data = {"schema": 1, "can_run": able, "facts": [fact.to_json() for fact in found]}
        write_whole(options.json, json.dumps(data, indent=2) + "\n")
    return CONFORMS if able else CANNOT_BE_JUDGED


def line(fact: Fact) -> str:
    """One fact, with the advice on the next line."""
    mark = "ok" if fact.good else "MISSING" if fact.needed else "-"
    text = f"{mark:>8}  {fact.name:<14} {fact.found}"
    return f"{text}\n{'':>10}{fact.advice}" if fact.advice else text
