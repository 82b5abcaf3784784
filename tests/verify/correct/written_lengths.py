"""Programs of other designs that take lengths, as targets: ``tests.verify.correct.written_lengths:moving_queries``."""

from __future__ import annotations

from attention_gate.verify.target.target import Target
from tests.verify.correct.programs import by_document as documents_in_turn
from tests.verify.correct.programs import moving_queries as visiting
from tests.verify.correct.programs import tree_decoding as reducing

NAMES = ("tree_decoding", "moving_queries", "by_document")

tree_decoding = Target(
    attend=reducing.attend,
    layout="interleaved",
    queries="replicated",
    gradients=False,
    branches="dense",
    terms=("queries", "joint", "window", "softcap", "slopes", "sink"),
    refusals=False,
)
moving_queries = Target(attend=visiting.attend, branches="dense", terms=("queries", "documents"), refusals=False)
by_document = Target(
    attend=documents_in_turn.attend,
    branches="dense",
    terms=("queries", "documents", "joint"),
    dtypes=("float64", "float32"),
    refusals=False,
)
