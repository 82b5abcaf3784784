"""At each seed the standard profile's own examples find what is wrong past a size or in a way of calling.

Two seeds are tried; with THOROUGH=1 in the environment, five.
"""

import os

import pytest

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.profiles import examples
from attention_gate.verify.judge.session import Session
from attention_gate.verify.run.search import search
from attention_gate.verify.target.loading import as_target
from tests.verify.field import caller_targets, shape_targets

SEEDS = 5 if "THOROUGH" in os.environ else 2

WRONG = [
    *(("shapes", f"tests.verify.field.shape_targets:{name}") for name in shape_targets.THRESHOLDS),
    *(("callers", f"tests.verify.field.caller_targets:{name}") for name in caller_targets.WORDS),
]


@pytest.mark.parametrize(("check", "name"), WRONG, ids=[name.rpartition(":")[2] for _, name in WRONG])
def test_the_mistake_is_found_at_each_seed(worlds, check, name):
    target, source = as_target(name)
    session = Session(target, source, worlds, (1, 2, 3, 4))
    planned = examples("standard", BY_NAME[check].weight)
    for seed in range(SEEDS):
        found = search(BY_NAME[check], session, examples=planned, seed=seed, shrink_seconds=0.0)
        assert found.finding is not None, f"seed {seed}: {found.examples} examples passed"
        print(name, "seed", seed, "example", found.examples)
