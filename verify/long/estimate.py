"""What a long run will take, from a short one: time of the target and of the oracle, and memory."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.long.chosen_rows import Chosen, choose
from attention_gate.verify.long.long_cases import keys_of_a_query
from attention_gate.verify.long.sampled_verdict import sampled_answer, scores_of
from attention_gate.verify.long.steps import SAMPLES, examine

#: The length of the short run.
SHORT = 4096

#: Calls of the target that a step makes, in units of one with its gradients.
CALLS = {SAMPLES: 1.0, "constant value": 0.5, "hidden keys": 0.8, "permutation": 1.5, "linearity": 4.5}

#: Tensors that a rank holds in a step, in units of query, key, value and upstream gradient together: the inputs, a copy
#: of them, results, gradients, and what a law compares.
COPIES = 6


@dataclass(frozen=True)
class Rates:
    """Seconds of the target for each pair of a query and a key that it sees, and of the oracle for each score."""

    target: float
    oracle: float

    def seconds(self, session: Session, case: Case, step: str, seed: int) -> float:
        """About how long a step will take."""
        pairs = case.length * keys_of_a_query(case) * case.heads * case.batch
        spent = CALLS[step] * self.target * pairs
        if step == SAMPLES:
            chosen = choose(case, session.positions(case).keys, seed)
            spent += self.oracle * scores_of(case, chosen, session.target.dialect)
        return spent


def rates(session: Session, case: Case) -> Rates:
    """Measure both at a short length, after a first call that warms up."""
    examine(session, case, SAMPLES)
    start = time.monotonic()
    examine(session, case, "constant value")
    pairs = case.length * keys_of_a_query(case) * case.heads * case.batch
    target = (time.monotonic() - start) / pairs / CALLS["constant value"]
    chosen = Chosen(np.arange(case.length), np.zeros(0, dtype=np.int64), (0, 0))
    start = time.monotonic()
    sampled_answer(case, chosen, session.target.dialect)
    return Rates(target, (time.monotonic() - start) / max(1, scores_of(case, chosen, session.target.dialect)))


def bytes_of_a_rank(case: Case) -> int:
    """About what a rank holds of inputs and results, in bytes, without what the target itself needs."""
    numbers = case.heads * (case.head_dim + case.value_dim) + case.kv_heads * (case.head_dim + case.value_dim)
    size = {"float64": 8, "float32": 4}.get(case.dtype, 2)
    return COPIES * -(-case.length // case.shards) * case.batch * numbers * size
