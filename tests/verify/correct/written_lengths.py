"""Programs of other designs that take lengths, as targets: ``tests.verify.correct.written_lengths:moving_queries``."""

from __future__ import annotations

from attention_gate.verify.target.target import Target
from tests.verify.correct.programs import by_document as documents_in_turn
from tests.verify.correct.programs import decode_by_sums as summing
from tests.verify.correct.programs import head_exchange as exchanging
from tests.verify.correct.programs import moving_queries as visiting
from tests.verify.correct.programs import tree_decoding as reducing
from tests.verify.correct.programs import two_way_halves as halving

NAMES = ("tree_decoding", "moving_queries", "by_document", "decode_by_sums", "head_exchange", "two_way_halves")

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
decode_by_sums = Target(
    attend=summing.attend,
    queries="replicated",
    terms=("queries",),
    branches="dense",
    gradients=False,
    refusals=False,
)
head_exchange = Target(attend=exchanging.attend, terms=("queries", "joint"), branches="dense", refusals=False)
two_way_halves = Target(attend=halving.attend, terms=("queries", "documents"), branches="dense", refusals=False)
