"""Ranks that meet in symmetric memory, without a GPU: a model of what torch counts, and meetings that do not mind."""

import random
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any, ClassVar
from unittest.mock import patch

import pytest
import torch
import torch.distributed as dist

from attention_gate.impls.fused import rendezvous
from attention_gate.impls.fused.rendezvous import MeetingStore
from tests.impls.worlds import results, world

SHORT = timedelta(seconds=0.5)


class Process:
    """What torch keeps of a process: how often it has exchanged anything, in any group (StoreExchange in C++)."""

    def __init__(self) -> None:
        self.exchanges = 0

    def exchange(self, store: dist.Store, rank: int, size: int, value: str) -> list[str]:
        keys = [f"CUDASymmetricMemory/{self.exchanges}/{peer}" for peer in range(size)]
        self.exchanges += 1
        store.set(keys[rank], value)
        values = []
        for peer, key in enumerate(keys):
            if peer != rank:
                store.wait([key])
            values.append(value if peer == rank else store.get(key).decode())
        return values

    def meet(self, store: dist.Store, rank: int, size: int, what: str) -> None:
        """Make the three exchanges of one rendezvous with multicast, and know all others' part in it."""
        for step in ("request", "barrier", "multicast"):
            expected = [f"{what} {step} {peer}" for peer in range(size)]
            assert self.exchange(store, rank, size, expected[rank]) == expected


Meetings = list[tuple[int, ...]]


def meet_all(meetings: Meetings, size: int, renumbers: bool, earlier: tuple[int, ...] = (0, 0, 0, 0)) -> None:
    """Let ranks, threads of this process, meet in this order; a group has one store whenever it meets, as in torch."""
    store = dist.HashStore()
    store.set_timeout(SHORT)
    processes = [Process() for _ in range(size)]
    for process, count in zip(processes, earlier, strict=False):
        process.exchanges = count

    def run(rank: int) -> None:
        for number, members in enumerate(meetings):
            if rank in members:
                of_group = dist.PrefixStore("_".join(map(str, members)), store)
                mine: dist.Store = MeetingStore(dist.PrefixStore(f"{number}", of_group)) if renumbers else of_group
                processes[rank].meet(mine, members.index(rank), len(members), f"meeting {number}")

    with ThreadPoolExecutor(size) as ranks, patch.object(rendezvous, "_PATIENCE", timedelta(seconds=20)):
        for done in [ranks.submit(run, rank) for rank in range(size)]:
            done.result()


UNEQUAL: dict[str, Meetings] = {
    "a pair, then all": [(0, 1), (0, 1, 2, 3)],
    "all, a pair twice, all": [(0, 1, 2, 3), (2, 3), (2, 3), (0, 1, 2, 3)],
    "overlapping": [(0, 1, 2), (1, 2, 3)],
}


@pytest.mark.parametrize("name", UNEQUAL)
def test_the_model_does_as_torch_where_ranks_have_met_unequally_often(name: str) -> None:
    """Else it would show nothing: without a store of its own, a meeting waits for keys that nobody writes."""
    with pytest.raises(RuntimeError, match=r"[Tt]imeout"):
        meet_all(UNEQUAL[name], 4, renumbers=False)
    meet_all([(0, 1, 2, 3)] * 3, 4, renumbers=False)


@pytest.mark.parametrize("name", UNEQUAL)
def test_ranks_meet_however_often_each_has_met_before(name: str) -> None:
    meet_all(UNEQUAL[name], 4, renumbers=True)


@pytest.mark.parametrize("seed", range(10))
def test_groups_of_any_ranks_meet_in_any_order(seed: int) -> None:
    """After what other code has exchanged, too, as often as it may have on each rank."""
    source = random.Random(seed)
    size = source.choice((2, 3, 4, 8))
    meetings = [tuple(sorted(source.sample(range(size), source.randint(2, size)))) for _ in range(12)]
    meet_all(meetings, size, renumbers=True, earlier=tuple(source.randrange(20) for _ in range(size)))


def test_other_keys_are_left_as_they_are() -> None:
    inner = dist.HashStore()
    store = MeetingStore(inner)
    for key in ("name", "name/0", "kind/x/0", "kind/0/x", "kind/-1/0", "/0/0"):
        store.set(key, key)
        assert inner.get(key) == store.get(key) == key.encode()


def test_each_kind_of_exchange_is_numbered_by_itself() -> None:
    inner = dist.HashStore()
    store = MeetingStore(inner)
    for key in ("a/7/0", "b/3/1", "a/9/0", "a/7/1", "b/3/0"):
        store.set(key, key)
    renamed = {"a/0/0": "a/7/0", "b/0/1": "b/3/1", "a/1/0": "a/9/0", "a/0/1": "a/7/1", "b/0/0": "b/3/0"}
    assert {key: inner.get(key).decode() for key in renamed} == renamed
    assert store.multi_get(["a/7/0", "a/9/0"]) == [b"a/7/0", b"a/9/0"]


@pytest.mark.parametrize("timeout", [None, timedelta(hours=1)])
def test_a_rank_that_never_comes_is_not_waited_for_for_ever(timeout: timedelta | None) -> None:
    """Torch waits as long as its store does, which may be half an hour."""
    with patch.object(rendezvous, "_PATIENCE", SHORT):
        asked = MeetingStore(dist.HashStore())
        store = dist.PrefixStore("group", asked)  # as torch asks, from C++
        with pytest.raises(RuntimeError, match=r"[Tt]imeout"):
            store.wait(["kind/0/1"], *([timeout] if timeout else []))


class Torch:
    """Torch's rendezvous of one process, by the store that its version looks at."""

    asks_the_group = False
    process = Process()
    stores: ClassVar[dict[str, tuple[int, int, Any]]] = {}

    @staticmethod
    def set_group_info(name: str, rank: int, size: int, store: Any) -> None:
        assert name not in Torch.stores, f"{name} was there before"
        Torch.stores[name] = rank, size, store

    @staticmethod
    def rendezvous(local: torch.Tensor, name: str) -> str:
        rank, size, store = Torch.stores[name]
        if Torch.asks_the_group:
            group = torch._C._distributed_c10d._resolve_process_group(name)  # type: ignore[arg-type]
            rank, size, store = group.rank(), group.size(), group.get_group_store()
        Torch.process.meet(store, rank, size, f"by {local.item()}")
        return name


def run_in_groups(rank: int, seed: int, asks_the_group: bool) -> list[str]:
    """Meet in groups that are made and destroyed, all ranks' order the same, some of them in each."""
    source = random.Random(seed)
    Torch.asks_the_group, Torch.process, Torch.stores = asks_the_group, Process(), {}
    names = []
    with patch("torch._C._distributed_c10d._SymmetricMemory", Torch):
        for number in range(6):
            members = sorted(source.sample(range(4), source.choice((2, 3, 4))))
            group = dist.new_group(members)
            for again in range(source.choice((1, 2))):
                if rank in members:
                    name = rendezvous.new_name(group, torch.device("cpu"))
                    names.append(rendezvous.rendezvous(torch.tensor(number * 10 + again), group, name))
            if source.random() < 0.5 and rank in members:
                dist.destroy_process_group(group)
    return names


@pytest.mark.parametrize("asks_the_group", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_process_groups_meet_however_torch_finds_their_store(seed: int, asks_the_group: bool) -> None:
    """Whichever groups there were before: no two meetings have one name, and the ranks of one agree upon it."""
    try:
        answers = results(4, run_in_groups, seed, asks_the_group)
    finally:
        world(4).close()  # its ranks have groups that nobody else knows
    assert all(len(set(names)) == len(names) for names in answers)
    assert any(answers)
    counted = [name for names in answers for name in names]
    assert all(2 <= counted.count(name) <= 4 for name in counted)


def test_nothing_is_left_of_a_meeting_that_fails() -> None:
    group = dist.ProcessGroup(dist.HashStore(), 0, 1)
    with (
        patch("torch._C._distributed_c10d._SymmetricMemory") as symmetric_memory,
        patch.object(dist, "get_rank", return_value=0),
        patch.object(dist, "get_world_size", return_value=1),
    ):
        symmetric_memory.rendezvous.side_effect = RuntimeError("cannot map")
        with pytest.raises(RuntimeError, match="cannot map"):
            rendezvous.rendezvous(torch.zeros(1), group, "attention_gate/test")
    with pytest.raises(RuntimeError, match="attention_gate/test"):
        torch._C._distributed_c10d._resolve_process_group("attention_gate/test")  # type: ignore[arg-type]
