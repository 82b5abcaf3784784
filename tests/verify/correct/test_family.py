"""The correct family passes the gate, over real ranks, and simulated ranks return the very same."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.run.judging import judge
from attention_gate.verify.run.observer import Silent
from attention_gate.verify.run.request import Options
from attention_gate.verify.target.source import parse_source
from attention_gate.verify.world.local import Worlds
from tests.verify.correct.simulated import attended
from tests.verify.correct.style import STYLES
from tests.verify.correct.targets import TARGETS

SIZES = (1, 2, 3, 4)

#: One style for each way to travel, between them all ways to compute; the others differ from these in one thing each.
OVER_REAL_RANKS = ("flash", "flash_heads", "flash_exp2", "tree", "flash_tree")


@pytest.fixture(scope="module")
def worlds() -> Iterator[Worlds]:
    with Worlds() as running:
        yield running


def session(name: str, worlds: Worlds, network: SimulatedWorlds) -> Session:
    source = parse_source(f"tests.verify.correct.targets:{name}")
    return Session(TARGETS[name], source, worlds, SIZES, network=network)


@pytest.mark.parametrize("name", OVER_REAL_RANKS)
def test_passes_the_gate(name: str, worlds: Worlds, network: SimulatedWorlds) -> None:
    checks = ("forward", "lse", "gradients", "state", "precision", "non-finite")
    report = judge(session(name, worlds, network), Options(profile="quick", checks=checks), Silent())
    assert report.verdict == "pass", [check.failure for check in report.checks]
    assert [check.outcome for check in report.checks] == ["pass"] * len(checks)


@pytest.mark.parametrize("name", STYLES)
def test_simulated_ranks_return_the_very_same(name: str, worlds: Worlds, network: SimulatedWorlds) -> None:
    case = Case(
        world_size=4,
        length=14,
        pass_length=True,
        batch=2,
        heads=8,
        kv_heads=4,
        head_dim=3,
        value_dim=5,
        segment_lengths=(6, 14),
        dilation_rates=(2, 1),
        is_causal=True,
        dtype="bfloat16",
    )
    real, finding = session(name, worlds, network).attend(case, lse=True)
    assert finding is None, finding
    for ours, theirs in zip(attended(case, STYLES[name]), real, strict=True):
        assert ours.facts == theirs.facts
        for tensor, values in ours.arrays.items():
            np.testing.assert_array_equal(values, theirs.arrays[tensor], err_msg=tensor)
