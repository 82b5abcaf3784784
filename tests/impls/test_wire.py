"""What travels, counted where it leaves: nothing that is not needed, nothing twice, and how much is held meanwhile."""

import gc
import time
import weakref
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist

from attention_gate.impls.exchange import Flight, gather_bytes
from tests.impls.cases import IMPLEMENTATIONS, Case, assert_close, attend, own_tensors, run_case, shard_of
from tests.impls.test_tiling import visible_pairs
from tests.impls.worlds import results

ELEMENT = {"float64": 8, "float32": 4, "bfloat16": 2}

CASES = {
    "dense": Case(16, ((16, 1),), heads=4, kv_heads=2),
    "dense causal": Case(16, ((16, 1),), is_causal=True, heads=4, kv_heads=2),
    "bfloat16": Case(16, ((16, 1),), heads=4, kv_heads=2, dtype="bfloat16"),
    "nested branches": Case(16, ((4, 1), (8, 2), (16, 4)), heads=4, kv_heads=4, batch=2),
    "nested branches causal": Case(16, ((4, 1), (8, 2), (16, 4)), is_causal=True, heads=4, kv_heads=4),
    "inside the shards": Case(16, ((4, 1), (2, 2)), is_causal=True),
    "misaligned": Case(19, ((7, 3), (5, 2)), heads=6, kv_heads=3),
    "misaligned causal": Case(19, ((7, 3), (5, 2)), is_causal=True, heads=6, kv_heads=3),
    "fewer rows than ranks": Case(3, ((3, 1),), is_causal=True),
}


class Counted:
    """Bytes that this rank sends to each other rank, at the one door that messages leave by."""

    def __init__(self) -> None:
        self.sent = [0] * dist.get_world_size()

    def batch_isend_irecv(self, batch: list[dist.P2POp]) -> list[dist.Work]:
        for message in batch:
            if message.op is dist.isend:
                self.sent[message.group_peer] += message.tensor.nbytes
        return self._batch_isend_irecv(batch)

    def all_to_all_single(
        self, incoming: torch.Tensor, outgoing: torch.Tensor, *splits: list[int], **options: Any
    ) -> None:
        if splits:  # Verdicts have none.
            row = outgoing[:1].nbytes
            self.sent = [bytes_sent + rows * row for bytes_sent, rows in zip(self.sent, splits[1], strict=True)]
        self._all_to_all_single(incoming, outgoing, *splits, **options)

    _batch_isend_irecv = staticmethod(dist.batch_isend_irecv)
    _all_to_all_single = staticmethod(dist.all_to_all_single)

    def taken(self) -> list[int]:
        """Return what was sent since this was last asked."""
        sent, self.sent = self.sent, [0] * len(self.sent)
        return sent


def run_counted(
    rank: int, implementation: str, case: Case, has_frozen_keys: bool = False
) -> tuple[list[int], list[int]]:
    counted = Counted()
    original = torch.Tensor.backward
    passes = []

    def backward(*arguments: Any, **options: Any) -> None:
        passes.append(counted.taken())
        original(*arguments, **options)

    with (
        patch.object(dist, "batch_isend_irecv", counted.batch_isend_irecv),
        patch.object(dist, "all_to_all_single", counted.all_to_all_single),
        patch.object(torch.Tensor, "backward", backward),
    ):
        query, key, value, grad_out = own_tensors(case, dist.get_world_size(), rank)
        if has_frozen_keys:
            key, value = key.detach(), value.detach()
        out = attend(implementation)(query, key, value, sequence_length=case.length, **case.options)
        out.backward(grad_out)
    return passes[0], counted.taken()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_each_pass_sends_exactly_the_rows_that_are_seen_elsewhere(implementation: str, name: str, size: int) -> None:
    case = CASES[name]
    rows = travelling_rows(case, size)
    row = case.batch * (case.head_dim + case.value_dim)
    forward = rows * row * ELEMENT[case.dtype]
    home = rows.T * row * ELEMENT["float32" if case.dtype == "bfloat16" else case.dtype]
    for rank, (sent_forward, sent_backward) in enumerate(results(size, run_counted, implementation, case)):
        assert sent_forward == forward[rank].tolist()
        assert sent_backward == (forward + home)[rank].tolist()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_that_nobody_wants_do_not_travel(implementation: str) -> None:
    for sent_forward, sent_backward in results(3, run_counted, implementation, CASES["dense"], True):
        assert sent_backward == sent_forward


def travelling_rows(case: Case, size: int) -> np.ndarray:
    """Return how many (row, kv head) of each rank each other rank sees, from the definition."""
    visible = np.any(
        [visible_pairs(case.length, branch, case.is_causal, case.heads) for branch in case.branches], axis=0
    )
    per_kv_head = visible.reshape(case.kv_heads, -1, case.length, case.length).any(1)
    rows = np.zeros((size, size), dtype=int)
    for source in range(size):
        for destination in range(size):
            if source != destination:
                queries, keys = (shard_of(case.length, size, rank) for rank in (destination, source))
                rows[source, destination] = per_kv_head[:, queries, keys].any(1).sum()
    return rows


def test_the_bound_of_causal_dense_attention() -> None:
    """The counted rows are the theory's: rank t receives the rows of the t ranks before it."""
    case = CASES["dense causal"]
    assert travelling_rows(case, 4).sum(0).tolist() == [rank * 4 * case.kv_heads for rank in range(4)]


def run_watched(rank: int, case: Case, has_backward: bool) -> int:
    """Return the largest number of parcels, made to be sent or received, that were alive at once."""
    from attention_gate.impls import robust

    alive: weakref.WeakSet[torch.Tensor] = weakref.WeakSet()
    most = 0

    def watched(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def wrapped(*arguments: Any) -> torch.Tensor:
            nonlocal most
            parcel = make(*arguments)
            alive.add(parcel)
            most = max(most, len(alive))
            return parcel

        return wrapped

    query, key, value, grad_out = own_tensors(case, dist.get_world_size(), rank)
    with (
        patch.object(robust, "new_parcel", watched(robust.new_parcel)),
        patch.object(robust, "pack", watched(robust.pack)),
    ):
        out = robust.attend(query, key, value, sequence_length=case.length, **case.options)
        assert isinstance(out, torch.Tensor)
        if has_backward:
            out.backward(grad_out)
    return most


@pytest.mark.parametrize(("size", "forward", "both"), [(2, 2, 3), (3, 3, 5), (4, 3, 6)])
def test_the_ring_holds_a_constant_number_of_blocks(size: int, forward: int, both: int) -> None:
    """Forward: the block in use, one that arrives, one that leaves. Backward: these, and gradients likewise.

    The last hop has none after it to post, so that a small world never reaches the constants 3 and 6.
    """
    assert results(size, run_watched, CASES["dense"], False) == [forward] * size
    assert results(size, run_watched, CASES["dense"], True) == [both] * size


class Arrived:
    """A message that is through."""

    def wait(self) -> None: ...


def test_messages_that_are_through_hold_no_memory() -> None:
    message, incoming, outgoing = Arrived(), torch.ones(2), torch.ones(3)
    left = [weakref.ref(thing) for thing in (message, outgoing)]
    flight = Flight([message], [incoming, outgoing])  # type: ignore[list-item]
    assert flight.wait() is incoming
    del message, outgoing
    assert [each() for each in left] == [None, None], "though the flight itself is kept"


def test_verdicts_travel_as_bytes() -> None:
    sent = []

    def all_to_all_single(incoming: torch.Tensor, outgoing: torch.Tensor, group: None) -> None:
        sent.append(outgoing.nbytes)
        incoming.copy_(outgoing)

    with (
        patch.object(dist, "get_world_size", lambda group: 3),
        patch.object(dist, "all_to_all_single", all_to_all_single),
    ):
        assert gather_bytes(bytes(range(5)), None, torch.device("cpu")) == [bytes(range(5))] * 3
    assert sent == [15]


def run_many_times(rank: int, implementation: str, case: Case) -> list[int]:
    """Return how many tensors were alive after each of some calls."""
    counts = []
    for _ in range(_CALLS):
        run_case(rank, implementation, case)
        gc.collect()
        counts.append(sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects()))
    return counts


_CALLS = 6


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_nothing_piles_up_from_call_to_call(implementation: str) -> None:
    for counts in results(2, run_many_times, implementation, CASES["misaligned causal"]):
        # What earlier tests left may go, and what the first call caches may come; a leak adds one at every call.
        assert counts[-1] - counts[1] < _CALLS - 2, counts


def run_late(rank: int, implementation: str, case: Case, late_ranks: list[int]) -> dict[str, np.ndarray]:
    """Run with some ranks late for each exchange, and with received rows NaN until they have arrived."""
    from attention_gate.impls import robust

    def late(post: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            if rank in late_ranks:
                time.sleep(0.03)
            return post(*arguments, **options)

        return wrapped

    def poisoned(*arguments: Any) -> torch.Tensor:
        return new_parcel(*arguments).fill_(float("nan"))

    new_parcel = robust.new_parcel
    patches: list[AbstractContextManager] = [
        patch.object(dist, "batch_isend_irecv", late(dist.batch_isend_irecv)),
        patch.object(dist, "all_to_all_single", late(dist.all_to_all_single)),
        patch.object(robust, "new_parcel", poisoned),
    ]
    with patches[0], patches[1], patches[2]:
        return run_case(rank, implementation, case)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("late_ranks", [[0], [2], [1, 3]])
def test_late_ranks_change_nothing(implementation: str, late_ranks: list[int]) -> None:
    case = CASES["misaligned"]
    assert_close(results(4, run_late, implementation, case, late_ranks), case)
