"""The network without processes: what it lets complete, when it sees a deadlock, and that it repeats itself exactly."""

from __future__ import annotations

from typing import Any

import pytest

from attention_gate.verify.network.network import MODELS, Network, Schedule
from attention_gate.verify.rank.collectives import outcome, pairs
from attention_gate.verify.rank.network_messages import Piece, Post, Signal, Stop, Wait, Wake


def post(number: int, kind: str, peer: int, *, batch: int | None = None, **changes: Any) -> Post:
    """A message of two doubles in a world of two."""
    piece = (Piece("float64", (2,)),)
    made = Post(
        number=number,
        kind=kind,
        call={"send": "isend", "receive": "irecv"}.get(kind, kind),
        group="world",
        ranks=(0, 1),
        peer=peer,
        tag=0,
        sends=piece if kind != "receive" else (),
        receives=piece if kind != "send" else (),
        reduction="",
        batch=number if batch is None else batch,
        line=f"line {number}",
        stage="forward",
        work=0,
    )
    return made._replace(**changes)


def signal(state: str, posts: list[Post], wanted: tuple[int, ...] = (), **more: Any) -> Signal:
    """What a rank says when it waits for some of its operations."""
    log: list[Post | Wait] = [*posts]
    if wanted:
        log.append(Wait(wanted, len(posts), "the wait", "forward", 0))
    contents = {p.number: [bytes([p.number]) * 16] for p in posts if p.sends}
    return Signal(state, log, contents, wanted, **more)


def both(network: Network, first: Signal, second: Signal) -> dict[int, Wake | Stop]:
    """The answers to the two ranks of a world."""
    network.take(1, second)
    network.take(0, first)
    assert network.quiet
    return dict(network.step())


def exchange(batched: bool) -> list[list[Post]]:
    """Each rank sends, then receives."""
    one = [[post(0, "send", 1), post(1, "receive", 1)], [post(0, "send", 0), post(1, "receive", 0)]]
    return [[p._replace(batch=0) for p in posts] for posts in one] if batched else one


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("batched", [False, True])
def test_only_a_batch_runs_together_where_operations_run_in_order(model: str, batched: bool) -> None:
    network = Network(2, Schedule(model))
    posts = exchange(batched)
    reported = both(network, signal("wait", posts[0], (1,)), signal("wait", posts[1], (1,)))
    if model == "stream" and not batched:
        assert network.finding is not None
        assert network.finding.headline == "deadlock: rank 0 waits for rank 1, which waits for rank 0"
        assert all(isinstance(answer, Stop) for answer in reported.values())
    else:
        assert network.finding is None
        assert any(isinstance(answer, Wake) and answer.done[1] == [bytes(16)] for answer in reported.values())


def test_the_schedule_says_which_transfers_complete() -> None:
    woken = []
    for choices in ((), (0,), (1,), (3,), (2,), (4,)):
        network = Network(2, Schedule("rendezvous", choices))
        posts = exchange(False)
        woken.append(list(both(network, signal("wait", posts[0], (1,)), signal("wait", posts[1], (1,)))))
    assert woken == [[0, 1], [0, 1], [0], [1], [1], [0]]
    for choice in range(9):
        for possible in range(1, 5):
            picked = Schedule("eager", (choice,)).choose(0, possible)
            assert picked
            assert set(picked) <= set(range(possible))


def test_a_blocking_send_returns_only_where_sends_are_eager() -> None:
    for model in MODELS:
        network = Network(2, Schedule(model))
        sends = [signal("wait", [post(0, "send", 1 - rank)], (0,)) for rank in range(2)]
        reported = both(network, *sends)
        assert (network.finding is None) == (model == "eager")
        assert all(isinstance(answer, Wake if model == "eager" else Stop) for answer in reported.values())


def test_the_last_contents_before_completion_are_what_arrives() -> None:
    network = Network(2, Schedule("rendezvous"))
    posts = [post(0, "send", 1), post(1, "all_reduce", -1, reduction="SUM")]
    first = signal("wait", posts, (1,))
    other = signal("wait", [post(0, "all_reduce", -1, reduction="SUM")], (0,))
    reported = both(network, first, other)
    assert sorted(reported) == [0, 1]
    network.take(0, Signal("wait", [Wait((0,), 2, "", "forward", 0)], {0: [b"\x07" * 16]}, (0,)))
    network.take(1, signal("wait", [post(1, "receive", 0)], (1,)))
    answers = dict(network.step())
    wake = answers[1]
    assert isinstance(wake, Wake)
    assert wake.done[1] == [b"\x07" * 16]


def test_a_chain_ends_at_a_rank_that_has_finished() -> None:
    network = Network(2, Schedule("eager"))
    both(network, signal("wait", [post(0, "receive", 1)], (0,)), signal("end", []))
    assert network.finding is not None
    assert network.finding.headline == "deadlock: rank 0 waits for rank 1, which has finished"
    assert "which rank 1 has not sent" in "\n".join(network.finding.details)


def test_a_rank_that_failed_makes_no_deadlock_of_the_others() -> None:
    network = Network(2, Schedule("eager"))
    reported = both(network, signal("wait", [post(0, "receive", 1)], (0,)), signal("failed", []))
    assert network.finding is None
    assert isinstance(reported[0], Stop)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"receives": (Piece("float32", (4,)),)}, "another dtype"),
        ({"receives": (Piece("float64", (3,)),)}, "another number of elements"),
        ({"peer": 1}, "rank 1 receives from itself"),
    ],
)
def test_operations_that_do_not_fit_are_reported(changes: dict[str, Any], words: str) -> None:
    network = Network(2, Schedule("rendezvous"))
    both(
        network,
        signal("wait", [post(0, "send", 1)], (0,)),
        signal("wait", [post(0, "receive", 0)._replace(**changes)], (0,)),
    )
    assert network.finding is not None
    assert words in network.finding.headline


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"kind": "all_gather", "call": "all_gather"}, "rank 0 is in all_reduce, rank 1 in all_gather"),
        ({"reduction": "MAX"}, "differ in the reduction"),
        ({"sends": (Piece("float64", (3,)),)}, "differ in the number of elements"),
        ({"sends": (Piece("float32", (2,)),)}, "differ in the dtype"),
        ({"peer": 1}, "differ in the root"),
    ],
)
def test_collectives_that_differ_are_reported(changes: dict[str, Any], words: str) -> None:
    network = Network(2, Schedule("rendezvous"))
    both(
        network,
        signal("wait", [post(0, "all_reduce", -1, reduction="SUM")], (0,)),
        signal("wait", [post(0, "all_reduce", -1, reduction="SUM")._replace(**changes)], (0,)),
    )
    assert network.finding is not None
    assert words in network.finding.headline


def test_what_is_left_behind_is_reported() -> None:
    network = Network(2, Schedule("eager"))
    both(network, signal("end", [post(0, "send", 1)], unwaited=(0,)), signal("end", []))
    assert network.finding is not None
    assert network.finding.headline == "a message from rank 0 to rank 1 is never received"
    network = Network(2, Schedule("eager"))
    both(network, signal("end", [post(0, "send", 1)], (0,)), signal("end", [post(0, "receive", 0)], unwaited=(0,)))
    assert network.finding is not None
    assert network.finding.headline.startswith("rank 1 never waits for the handle of operation 0, irecv")
    network = Network(2, Schedule("eager"))
    both(network, signal("end", [post(0, "send", 1)], (0,), touched=(0,)), signal("end", [post(0, "receive", 0)], (0,)))
    assert network.finding is not None
    assert network.finding.headline.startswith("rank 0 writes to a buffer that operation 0, isend")


def test_reductions_and_their_bytes() -> None:
    posts = [post(0, "all_reduce", -1, reduction="AVG")._replace(ranks=(0, 1)) for _ in range(2)]
    import struct

    contents = {0: [struct.pack("2d", 1.0, 2.0)], 1: [struct.pack("2d", 3.0, 5.0)]}
    results = outcome(posts, contents)
    assert [struct.unpack("2d", result[0]) for result in results] == [(2.0, 3.5)] * 2
    assert pairs(posts) == {(0, 1): 16, (1, 0): 16}
