"""The check of schedules tries worlds that no real transport has on two cores."""

from dataclasses import replace
from typing import Any

import pytest

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.profiles import examples
from attention_gate.verify.checks.schedules import SCHEDULES
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds
from attention_gate.verify.run.search import search
from attention_gate.verify.target.source import Source
from attention_gate.verify.target.target import Target
from attention_gate.verify.world.local import Worlds
from tests.verify.network.ring import attend

DEFAULT = (1, 2, 3, 4)


def drawn(profile: str, world_sizes: tuple[int, ...] = DEFAULT, **declared: Any) -> list[Case]:
    """The examples of a profile; none is run."""
    found = []

    def note(session: Session, case: Case, parameters: object) -> Verdict:
        found.append(case)
        return Verdict(0.0)

    source = Source("tests.verify.network.ring", None, "attend")
    with Worlds() as worlds:
        session = Session(Target(attend=attend, **declared), source, worlds, world_sizes)
        search(replace(SCHEDULES, examine=note), session, examples=examples(profile, SCHEDULES.weight), seed=0)
    return found


def test_a_profile_has_worlds_beyond_four() -> None:
    sizes = [case.world_size for case in drawn("quick")]
    assert 0 < sum(size > 4 for size in sizes) < len(sizes) / 4
    standard = drawn("standard")
    sizes = [case.world_size for case in standard]
    assert {2, 3, 4, 5, 6, 7, 8} <= set(sizes)
    assert max(sizes) > 8
    assert all((case.dtype, case.buffers) == ("float64", "contiguous") for case in standard)  # as in any other world
    assert sum(size > 4 for size in sizes) < len(sizes) / 4


@pytest.mark.parametrize(("world_sizes", "declared"), [((2,), {}), ((2, 4), {}), ((2, 3, 4, 6), {"least_ranks": 6})])
def test_who_chose_the_sizes_gets_no_others(world_sizes: tuple[int, ...], declared: dict[str, Any]) -> None:
    assert {case.world_size for case in drawn("quick", world_sizes, **declared)} <= set(world_sizes)


def test_large_cases_ask_for_nothing_that_the_target_declines() -> None:
    declared = {"branches": "dense", "uneven": False, "masks": (False,), "gradients": False, "value_dim": False}
    large = [case for case in drawn("standard", **declared) if case.world_size > 4]
    assert large
    for case in large:
        assert (case.length % case.world_size, case.is_causal, case.requires_grad) == (0, False, "")
        assert case.segment_lengths == (max(case.length, 1),)
        assert case.head_dim == case.value_dim


def test_of_the_largest_worlds_one_is_kept_at_a_time() -> None:
    with SimulatedWorlds() as network:
        kept = [network[size] for size in (5, 8)]
        network[11], network[16], network[13]
        assert sorted(network._worlds) == [5, 8, 13]
        assert [network[size] for size in (5, 8)] == kept


def test_a_session_without_a_network_starts_none() -> None:
    source = Source("tests.verify.network.ring", None, "attend")
    with Worlds() as worlds:
        session = Session(Target(attend=attend), source, worlds, DEFAULT)
        with pytest.raises(RuntimeError, match="without a simulated network: give it one, and close it"):
            session.network[8]
        assert session.network._worlds == {}
