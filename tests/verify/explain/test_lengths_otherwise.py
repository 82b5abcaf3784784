"""Mistakes with lengths are named: where queries stand, what is merged how, rows that every rank has."""

from pathlib import Path

import pytest

import attention_gate
from attention_gate.verify.mutants import KNOWN, OTHERS
from attention_gate.verify.mutants.build import write

SENTENCES = {
    "T41": "with keys at the positions of blocks of one row, whatever the blocks are",
    "T43": "with each query one position later",
    "T44": "with the first query at the first key of its document, not the last at the last",
    "T45": "with the first document's number of keys for all",
    "T47": "with the ranks' parts merged by an lse in base 2 taken for the natural one",
    "T48": "with NaN where no part has a key that is seen",
    "T52": "with the rows that every rank has counted once for each rank",
    "T53": "with the rank's own keys alone beside the rows that every rank has",
    "X141": "each rank returns the whole of it, which is then summed twice: if that is meant, declare joint_gradient",
    "X143": "with the rows that every rank has before all others",
    "X146": "with positions counted from the end of the sequence, not of the document",
    "X148": "with the ranks' parts merged by equal weights",
}


@pytest.mark.parametrize("name", SENTENCES)
def test_a_known_mistake_is_named(name: str, tmp_path: Path) -> None:
    (mutant,) = (mutant for mutant in (*KNOWN, *OTHERS) if mutant.name == name)
    check = "gradients" if mutant.caught_by == ("gradients",) else "forward"
    checks = ["forward", check] if check == "gradients" else [check]
    report = attention_gate.check(write(mutant, tmp_path), profile="standard", checks=checks)
    assert report.verdict == "fail"
    assert SENTENCES[name] in attention_gate.text(report), attention_gate.text(report)
