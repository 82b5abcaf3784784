"""Which known mistakes each law catches: `python -m tests.verify.long.law_matrix` prints the table of docs/long.md.

A law knows no right answer, so it misses whole classes of mistakes; the last line names what no law catches. Shards are
of equal size: between unequal ones many mistakes end in an error, which is no law's to find.
"""

import sys
import tempfile
from pathlib import Path

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.long.laws import LAWS
from attention_gate.verify.long.steps import examine, laws_of_sums
from attention_gate.verify.mutants import MUTANTS
from attention_gate.verify.mutants.build import write
from attention_gate.verify.target.loading import load
from attention_gate.verify.target.source import parse_source
from attention_gate.verify.world.local import Worlds


def cases_for(target):
    """Two short cases that it takes: causal if it can be, and not."""
    length = 24
    dilated = {"segment_lengths": (8, length), "dilation_rates": (1, 3)}
    shape = dilated if target.branches == "any" else {"segment_lengths": (length,), "dilation_rates": (1,)}
    for is_causal in sorted(target.masks, reverse=True):
        case = Case(
            world_size=3,
            length=length,
            batch=2,
            heads=4 if target.grouped_query else 2,
            kv_heads=2,
            head_dim=4,
            value_dim=3 if target.value_dim else 4,
            is_causal=is_causal,
            dtype=target.logic_dtype,
            requires_grad="qkv" if target.gradients else "",
            **shape,
        )
        yield case if target.fit is None else target.fit(case)


def caught_by(session):
    """The laws that do not hold for a target; a crash or a hang is no law's."""
    found = set()
    for case in cases_for(session.target):
        found |= {name for name, outcome in laws_of_sums(session, case).items() if outcome.verdict == "fail"}
        for law in LAWS:
            if law.procedure != "sample" and law.name not in found:
                outcome = examine(session, case, law.name, seconds=10.0)
                found |= {law.name} if outcome.verdict == "fail" else set()
    return found


def matrix(names=None):
    """For each mutant, by name, the laws that catch it."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, Worlds() as worlds, worlds.hurried():
        for mutant in MUTANTS:
            if names is None or mutant.name in names:
                source = parse_source(write(mutant, Path(folder)))
                session = Session(load(source), source, worlds, (3,))
                found[mutant.name] = caught_by(session)
                print(mutant.name, *sorted(found[mutant.name]), sep="\t", file=sys.stderr, flush=True)
    return found


if __name__ == "__main__":
    table = matrix(set(sys.argv[1:]) or None)
    for law in LAWS:
        names = [name for name, laws in table.items() if law.name in laws]
        print(f"| {law.name} | {len(names)} | {', '.join(names)} |")
    missed = [name for name, laws in table.items() if not laws]
    print(f"| none | {len(missed)} | {', '.join(missed)} |")
