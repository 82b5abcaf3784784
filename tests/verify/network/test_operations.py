"""The backend does what torch.distributed promises, under every delivery model and in any order of completion."""

from collections.abc import Callable

import pytest

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import MODELS, Schedule

OPERATIONS = "tests.verify.network.operations"


def case(size: int, group: tuple[int, ...] | None = None) -> Case:
    """A case of one row on each rank."""
    return Case(world_size=size, group=group, length=size if group is None else len(group), requires_grad="")


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("choices", [(), (5, 2, 7, 1)])
@pytest.mark.parametrize("members", [case(3), case(4, (1, 3))], ids=["all", "a sub-group"])
def test_every_operation_gives_what_torch_promises(
    session_of: Callable[..., Session], model: str, choices: tuple[int, ...], members: Case
) -> None:
    found = simulate(session_of(f"{OPERATIONS}:everything"), members, schedule=Schedule(model, choices), judged=False)
    assert found.finding is None, found.finding


@pytest.mark.parametrize("function", ["early", "meshes", "polls", "uneven"])
def test_meshes_gradients_and_polls(session_of: Callable[..., Session], function: str) -> None:
    for model in MODELS[:2] if function == "polls" else MODELS:
        session = session_of(f"{OPERATIONS}:{function}")
        found = simulate(session, case(4), schedule=Schedule(model, (3,)), judged=False)
        assert found.finding is None, found.finding


def test_a_receive_from_anybody_may_come_from_any_rank(session_of: Callable[..., Session]) -> None:
    session = session_of(f"{OPERATIONS}:from_anybody")
    outcomes = set()
    for choice in range(8):
        found = simulate(session, case(4), schedule=Schedule("rendezvous", (choice,)), judged=False)
        outcomes.add(found.finding.headline if found.finding else "right")
    assert "right" in outcomes
    assert any("heard [2" in outcome for outcome in outcomes)
    assert any("heard [3" in outcome for outcome in outcomes)


@pytest.mark.parametrize(
    ("function", "outcome", "text"),
    [
        ("polls_for_ever", "hang", "deadlock: rank 0 waits for rank 1, which waits for rank 0"),
        ("strided", "crash", "must be contiguous"),
        ("one_rank_raises", "crash", "rank 1 raised KeyError"),
    ],
)
def test_a_mistake_is_reported(session_of: Callable[..., Session], function: str, outcome: str, text: str) -> None:
    session = session_of(f"{OPERATIONS}:{function}")
    for _ in range(2):  # the processes outlive it
        found = simulate(session, case(2), judged=False).finding
        assert found is not None
        assert (found.outcome, text in found.headline) == (outcome, True), found
    assert session.network[2].starts == 1
