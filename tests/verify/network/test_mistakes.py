"""Mistakes of communication are reported for what they are, each with its smallest case."""

import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks.check import Check
from attention_gate.verify.checks.peak_memory import MEMORY
from attention_gate.verify.checks.profiles import examples
from attention_gate.verify.checks.schedules import SCHEDULES
from attention_gate.verify.checks.wire import WIRE
from attention_gate.verify.judge.comparison import Verdict
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import Schedule
from attention_gate.verify.run.search import Searched, search

#: The check that finds the mistake, the outcome, and what the report says somewhere.
MISTAKES: dict[str, tuple[Check, str, str]] = {
    "use_before_wait": (SCHEDULES, "fail", "a buffer was read too early"),
    "overwrite_before_wait": (SCHEDULES, "fail", "writes to a buffer that"),
    "blocks_on_the_module": (SCHEDULES, "fail", "call 1 of 2; all forward passes ran before"),
    "local_rank_as_peer": (SCHEDULES, "", ""),
    "blocking_send_first": (SCHEDULES, "hang", "deadlock: rank 0 waits for rank 1, which waits for rank 0"),
    "world_barrier": (SCHEDULES, "hang", "which has finished"),
    "keeps_every_block": (MEMORY, "fail", "grows with the number of ranks"),
    "unbatched": (SCHEDULES, "hang", "deadlock: rank 0 waits for rank 1, which waits for rank 0"),
    "waits_for_the_last": (SCHEDULES, "fail", "never waits for the handle of operation 0"),
    "value_into_key": (SCHEDULES, "fail", "receives are posted in another order than sends"),
    "one_unwaited": (SCHEDULES, "fail", "never waits for the handle of operation 3, isend"),
    "different_collectives": (SCHEDULES, "fail", "rank 0 is in all_gather, rank 1 in all_reduce"),
    "never_received": (SCHEDULES, "fail", "a message from rank 0 to rank 1 is never received"),
    "to_itself": (SCHEDULES, "fail", "rank 0 sends to itself"),
    "other_dtype": (SCHEDULES, "fail", "which receives it into float32 (2,): another dtype"),
    "outside_the_group": (SCHEDULES, "fail", "uses a group that it is not in"),
    "distinguished_by_tags": (SCHEDULES, "fail", "NCCL ignores tags"),
    "nobody_else_casts": (SCHEDULES, "fail", "ranks 0 and 1 differ in the root of broadcast"),
    "gathers_unwaited": (SCHEDULES, "fail", "never waits for the handle of operation 0, all_gather"),
    "reduces_behind_the_hop": (SCHEDULES, "hang", "for this rank's own earlier operation 0, irecv of a batch"),
    "ranked_sizes": (SCHEDULES, "fail", "ranks 0 and 1 differ in the number of elements of reduce_scatter"),
    "wasteful": (WIRE, "fail", "a dense ring moves at most"),
}

#: The mistakes that must fall with every seed.
IN_EVERY_SEED = (*list(MISTAKES)[:8],)


def found(session_of: Callable[..., Session], name: str) -> Searched:
    """What the check of that mistake finds in the quick profile."""
    check = MISTAKES[name][0]
    session = session_of(f"tests.verify.network.mistakes:{name}", claims=("memory", "wire"))
    most = examples("quick", check.weight)
    return search(check, session, examples=most, seed=0, shrink_seconds=30.0)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_named_and_shrinks_to_the_smallest_case(session_of: Callable[..., Session], name: str) -> None:
    _, outcome, text = MISTAKES[name]
    result = found(session_of, name)
    assert result.finding is not None
    assert result.example is not None
    printed = "\n".join((result.finding.headline, *result.finding.details))
    assert not outcome or result.finding.outcome == outcome, printed
    assert text in printed, printed
    case, parameters = result.example.case, result.example.parameters
    if name in ("local_rank_as_peer", "world_barrier"):  # which show where some ranks take no part
        assert case.group is not None
        assert case.length <= 2 * case.shards
    elif name != "keeps_every_block":
        assert (case.world_size, case.shards) == (2, 2)
        assert case.length <= 3
    if result.example.check == SCHEDULES.name:
        assert parameters["choices"] == []
        assert parameters["calls"] == (2 if name == "blocks_on_the_module" else 1)


@pytest.mark.parametrize("seed", range(1, 10))
@pytest.mark.parametrize("name", IN_EVERY_SEED)
def test_known_mistakes_fall_with_every_seed(session_of: Callable[..., Session], name: str, seed: int) -> None:
    check = MISTAKES[name][0]

    def examine(session: Session, case: Case, parameters: dict) -> Verdict:
        verdict = check.examine(session, case, parameters)
        if verdict.finding is not None:
            raise _Caught
        return verdict

    session = session_of(f"tests.verify.network.mistakes:{name}", claims=("memory",))
    with pytest.raises(_Caught):
        search(replace(check, examine=examine), session, examples=examples("quick", check.weight), seed=seed)


class _Caught(BaseException):
    """Ends a search at the first failure, before it looks for a smaller one."""


def test_an_unbatched_ring_is_right_unless_its_operations_run_in_order(session_of: Callable[..., Session]) -> None:
    session = session_of("tests.verify.network.mistakes:unbatched")
    case = Case(world_size=3, length=7, pass_length=True, value_dim=2, segment_lengths=(7,), dilation_rates=(1,))
    for model in ("eager", "rendezvous"):
        assert simulate(session, case, schedule=Schedule(model, (1, 0, 2))).finding is None
    simulate(session, case, schedule=Schedule("stream"))
    start = time.perf_counter()
    finding = simulate(session, case, schedule=Schedule("stream")).finding
    seconds = time.perf_counter() - start
    assert finding is not None
    cycle = "rank 0 waits for rank 2, which waits for rank 1, which waits for rank 0"
    backwards = "rank 0 waits for rank 1, which waits for rank 2, which waits for rank 0"
    assert finding.headline in (f"deadlock: {cycle}", f"deadlock: {backwards}")
    assert any("mistakes.py" in line and "dist.isend(tensor" in line for line in finding.details)
    assert sum("is held up there by operation 0" in line for line in finding.details) == 3
    assert seconds < 2.0  # and not a time-out
