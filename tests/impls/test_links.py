"""What brings rows from rank to rank: where shared memory puts them, who must wait for what, and who shares any."""

import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call, patch
from weakref import ref

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from impls.fused import journey, symmetric
from impls.fused.links import Messages
from tests.impls.cases import IMPLEMENTATIONS, Case, assert_close
from tests.impls.test_fused import CASES, run_fused
from tests.impls.worlds import results

SIZE = 1 << 20


class Handle:
    """Stands in for memory that GPUs share: a file for each rank, which all map."""

    def __init__(self, folder: str, group: dist.ProcessGroup | None) -> None:
        self.group = group
        self.memory = []
        for rank in range(dist.get_world_size(group)):
            path = Path(folder) / f"{rank}"
            memory = torch.from_file(str(path), shared=True, size=SIZE, dtype=torch.uint8)
            self.memory.append(memory)
        dist.barrier(group)

    def get_buffer(self, peer: int, shape: tuple[int, ...], dtype: torch.dtype, start: int) -> Tensor:
        return self.memory[peer].view(dtype)[start : start + int(np.prod(shape))].view(shape)

    def barrier(self, channel: int) -> None:
        assert channel in (0, 1)
        dist.barrier(self.group)


@contextmanager
def shared_memory(folder: str) -> Iterator[None]:
    """Let links be those over shared memory, with streams that do everything at once."""
    places: dict[Any, symmetric.Workspace] = {}

    def link(span: Any, like: Tensor, parts: int, widths: tuple[int, int], group: Any) -> symmetric.SharedMemory:
        size, rank = dist.get_world_size(group), dist.get_rank(group)
        assert symmetric.SharedMemory.bytes_needed(span, parts, widths, like.dtype, size) <= SIZE
        if group not in places:
            place = places[group] = object.__new__(symmetric.Workspace)
            place.handle = Handle(folder, group)
            place.rank, place.world_size, place.size = rank, size, SIZE
            place.local, place.fetching, place.homing = place.handle.memory[rank], Mock(), Mock()
            place.fetched = place.read = None
            place._places = {}
        return symmetric.SharedMemory(places[group], span, like.dtype, parts, widths)

    with ExitStack() as stack:
        for name, stand_in in (
            ("impls.fused.journey._link", link),
            ("torch.cuda.current_stream", Mock()),
            ("torch.cuda.stream", lambda _: nullcontext()),
            ("torch.cuda.Event", Mock),
        ):
            stack.enter_context(patch(name, stand_in))
        yield


def run_shared(rank: int, implementation: str, case: Case, folder: str) -> list[dict[str, np.ndarray]]:
    """Run a case twice over one workspace, and a smaller one in between, which uses the same memory otherwise."""
    smaller = Case(8, ((8, 1),), heads=2, kv_heads=2)
    with shared_memory(folder):
        return [run_fused(rank, implementation, each) for each in (case, smaller, case)]


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("name", CASES)
def test_shared_memory_holds_each_row_and_gradient_where_it_is_looked_for(
    implementation: str, name: str, size: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for rank in range(size):
            (Path(folder) / f"{rank}").write_bytes(bytes(SIZE))
        answers = results(size, run_shared, implementation, CASES[name], folder)
    for place in (0, 2):
        assert_close([answer[place] for answer in answers], CASES[name])


def run_late(rank: int, implementation: str, case: Case) -> dict[str, np.ndarray]:
    """Run a case whose rows come to the buffer no sooner than they are waited for."""
    fetch, arrived = Messages.fetch, Messages.arrived
    under_way: dict[tuple[int, int], tuple[Tensor, Tensor]] = {}

    def late_fetch(self: Messages, part: int, buffer: Tensor) -> None:
        apart = torch.full_like(buffer, float("nan"))
        under_way[id(self), part] = apart, buffer
        buffer.fill_(float("nan"))
        fetch(self, part, apart)

    def late_arrival(self: Messages, part: int) -> None:
        arrived(self, part)
        apart, buffer = under_way.pop((id(self), part))
        for want in self._span.wants:
            rows = slice(want.place, want.place + want.stop - want.start)
            buffer[rows] = apart[rows]

    with patch.object(Messages, "fetch", late_fetch), patch.object(Messages, "arrived", late_arrival):
        answer = run_fused(rank, implementation, case)
    assert not under_way
    return answer


@pytest.mark.parametrize("name", ["dense", "dense causal", "spanning at two rates", "two dense branches"])
def test_nothing_is_read_before_it_has_arrived(name: str) -> None:
    assert_close(results(2, run_late, "robust", CASES[name]), CASES[name])


def test_who_packs_next_waits_for_all_who_fetch_and_for_who_reads_here() -> None:
    """Also where that pass runs on another stream: this one waits for events, not for the order of a stream."""
    place = Mock(world_size=2, rank=0, fetched=Mock(), read=Mock())
    span = Mock(rows=4, wants=(), gives=())
    symmetric.SharedMemory(place, span, torch.bfloat16, 2, (8, 8))
    place.fetched.wait.assert_called_once_with()
    place.read.wait.assert_called_once_with()


def test_the_end_of_reading_is_noted() -> None:
    """Once, after all parts: these run on two streams, so that no one part's end is the pass's."""
    place = Mock(world_size=2, rank=0, fetched=None, read=None)
    with patch.object(symmetric, "_event", Mock(side_effect=["released", "consumed", "ended"])):
        link = symmetric.SharedMemory(place, Mock(rows=4, wants=(), gives=()), torch.bfloat16, 2, (8, 8))
        link.released(1)
        link.consumed(1)
        assert place.read is None
        link.ended()
        assert place.read == "ended"


def on_cpu(*changes: Any) -> ExitStack:
    """Let a workspace be asked for where there is no GPU: verdicts travel by gloo."""
    gather = symmetric.gather_bytes
    stack = ExitStack()
    stack.enter_context(
        patch.object(symmetric, "gather_bytes", lambda payload, group, _: gather(payload, group, torch.device("cpu")))
    )
    stack.enter_context(patch("torch.cuda.synchronize", Mock()))
    stack.enter_context(patch("torch.cuda.Stream", Mock()))
    for change in changes:
        stack.enter_context(change)
    return stack


def run_without_memory(rank: int, where: str) -> tuple[bool, bool, list[str]]:
    """Return whether rank had a workspace, whether it met the others for one, and the warnings; rank 1 fails."""
    memory = "torch.distributed._symmetric_memory"

    def empty(size: int, dtype: torch.dtype, device: torch.device) -> Tensor:
        warnings.warn_explicit("shared memory is experimental", FutureWarning, "torch", 1)  # an error in these worlds
        if rank == 1 and where == "empty":
            raise RuntimeError("out of memory")
        return torch.empty(size, dtype=dtype)

    def meet(*_: Any) -> Any:
        warnings.warn_explicit("shared memory is experimental", FutureWarning, "torch", 1)
        if rank == 1 and where == "rendezvous":
            raise RuntimeError("cannot map")
        return Mock()

    rendezvous = Mock(side_effect=meet)
    with (
        on_cpu(
            patch(f"{memory}.empty", empty),
            patch(f"{memory}.rendezvous", rendezvous),
            patch.object(symmetric, "_can_share", lambda *_: True),
            patch.object(symmetric, "_workspaces", {}),
        ),
        patch("warnings.warn") as warned,
    ):
        place = symmetric.workspace(1000, None, torch.device("cpu"))
        kept = symmetric.workspace(10, None, torch.device("cpu"))
    assert kept is place
    return place is not None, rendezvous.called, [call.args[0] for call in warned.call_args_list]


@pytest.mark.parametrize("where", ["empty", "rendezvous", "nowhere"])
def test_ranks_share_memory_together_or_not_at_all(where: str) -> None:
    """None waits at a meeting for one that has nothing to bring."""
    answers = results(2, run_without_memory, where)
    assert [there for there, _, _ in answers] == [where == "nowhere"] * 2
    assert [met for _, met, _ in answers] == [where != "empty"] * 2
    for rank, (_, _, warned) in enumerate(answers):
        assert len(warned) == (where != "nowhere")
        if warned and rank:
            assert {"empty": "out of memory", "rendezvous": "cannot map"}[where] in warned[0]


def run_sharing(rank: int, change: str) -> bool:
    def old() -> Callable[[], None]:
        return lambda: None

    changes: list[Any] = [patch.object(symmetric, "_first_of_name", {})]
    if rank == 1 and change == "host":
        changes.append(patch("socket.gethostname", lambda: "elsewhere"))
    if rank == 1 and change == "boot":
        changes.append(patch.object(symmetric, "_boot", lambda: "another"))
    with on_cpu(*changes):
        if rank == 1 and change == "name":
            symmetric._first_of_name[dist.group.WORLD.group_name] = old  # type: ignore[union-attr, assignment]
        members = dist.group.WORLD
        assert members is not None
        answers = [symmetric._can_share(members, torch.device("cuda")) for _ in range(2)]
    assert answers[0] == answers[1]
    return answers[0]


@pytest.mark.parametrize("change", ["nothing", "host", "boot", "name"])
def test_memory_is_shared_on_one_host_by_the_first_group_of_a_name(change: str) -> None:
    assert results(2, run_sharing, change) == [change == "nothing"] * 2


class Asked:
    """What a workspace is asked for, step by step, where no rank of the group has said that it shares any memory."""

    def __init__(self, can_share: bool = True, makes: bool = True) -> None:
        self.steps: list[Any] = []
        self.kept: dict[Any, Any] = {}
        self.old: Any = lambda: None
        self._can_share, self._makes = can_share, makes

    def can_share(self, *_: Any) -> bool:
        self.steps.append("ask")
        return self._can_share

    def make(self, size: int, group: Any, device: torch.device) -> Any:
        assert group not in self.kept
        assert self.old() is None, "the old memory is there still"
        self.steps.append(size)
        made = Mock(size=size) if self._makes else None
        self.old = ref(made) if made else self.old
        return made

    def workspace(self, size: int, is_wanted: bool = True) -> Any:
        with ExitStack() as stack:
            for name, stand_in in (
                ("_can_share", self.can_share),
                ("_make", self.make),
                ("_workspaces", self.kept),
                ("is_wanted", is_wanted),
                ("gather_bytes", lambda *_: self.steps.append("gather")),
            ):
                stack.enter_context(patch.object(symmetric, name, stand_in))
            stack.enter_context(patch("torch.cuda.synchronize", lambda _: self.steps.append("synchronize")))
            return symmetric.workspace(size, "group", torch.device("cuda"))  # type: ignore[arg-type]


def test_a_workspace_is_kept_while_it_is_large_enough() -> None:
    """What replaces it is made when all ranks have done with it, and it is gone."""
    asked = Asked()
    first = asked.workspace(1)
    assert asked.steps == ["ask", "synchronize", "gather", 2 << 20]
    for size in (1, 2 << 20):
        assert asked.workspace(size) is first
    assert asked.steps[4:] == []
    del first
    assert asked.workspace((2 << 20) + 1).size == 4 << 20
    assert asked.steps[4:] == ["synchronize", "gather", 4 << 20]
    with patch.object(symmetric, "_workspaces", asked.kept | {"another group": None}):
        assert symmetric.held_bytes() == 4 << 20


@pytest.mark.parametrize(
    ("where", "is_wanted", "steps"),
    [
        ({"can_share": False}, True, ["ask"]),
        ({}, False, []),
        ({"makes": False}, True, ["ask", "synchronize", "gather", 2 << 20]),
    ],
)
def test_ranks_without_memory_are_asked_once(where: dict[str, bool], is_wanted: bool, steps: list[Any]) -> None:
    asked = Asked(**where)
    for _ in range(2):
        assert asked.workspace(1, is_wanted) is None
    assert asked.workspace(3 << 20, True) is None
    assert asked.steps == steps


def made_workspace() -> symmetric.Workspace:
    """Return a workspace of a rank without GPU, its handle a stand-in."""
    with (
        patch("torch.distributed._symmetric_memory.rendezvous", lambda *_: Mock()),
        patch("torch.cuda.Stream") as stream,
        patch.object(dist, "get_rank", return_value=1),
        patch.object(dist, "get_world_size", return_value=3),
    ):
        place = symmetric.Workspace(torch.empty(100, dtype=torch.uint8), "group")  # type: ignore[arg-type]
    # Copies go ahead of kernels, which would keep them waiting else.
    assert stream.call_args_list == [call(torch.device("cpu"), priority=-1)] * 2
    return place


def test_places_in_shared_memory_are_made_once_and_not_kept_for_ever() -> None:
    place = made_workspace()
    assert (place.size, place.rank, place.world_size, len(place.local)) == (100, 1, 3, 100)
    assert place.fetched is place.read is None
    place.handle.get_buffer = Mock(side_effect=lambda *given: (given, torch.is_inference_mode_enabled()))
    with patch.object(symmetric, "_KEPT_PLACES", 3), torch.inference_mode():
        for count in (1, 2, 3, 4, 5, 6, 7):
            made = place.of(2, 16, (count, 4), torch.bfloat16)
            assert made == ((2, (count, 4), torch.bfloat16, 8), False)
            assert place.of(2, 16, (count, 4), torch.bfloat16) is made
            assert len(place._places) <= 3
        assert place.handle.get_buffer.call_count == 7
        assert len(place._places) == 1


@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("size", [2, 3, 4])
def test_a_workspace_holds_what_travels_and_no_byte_more(size: int, parts: int) -> None:
    """What a rank packs, and what the others leave there of two parts; none overlap, all are used."""
    widths, rows = (3, 5), 7
    used: dict[int, set[int]] = {rank: set() for rank in range(size)}
    for rank in range(size):
        place = Mock(rank=rank, world_size=size, fetched=None, read=None)

        def of(peer: int, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> tuple[int, set[int]]:
            return peer, set(range(start, start + int(np.prod(shape)) * dtype.itemsize))

        place.of = of
        link = symmetric.SharedMemory(place, Mock(rows=rows, wants=(), gives=()), torch.bfloat16, parts, widths)
        owner, packed = link.packed  # type: ignore[misc]
        taken = [packed]
        assert owner == rank
        for part in range(min(2, parts)):
            for other in range(size):
                for owner, inbox in link._inboxes(rank, part, other) if other != rank else ():  # type: ignore[misc]
                    assert owner == rank
                    taken.append(inbox)
            # The part after the next takes the same place.
            assert link._inboxes(rank, part, 1 - min(rank, 1)) == link._inboxes(rank, part + 2, 1 - min(rank, 1))
        assert sum(map(len, taken)) == len(set().union(*taken))
        used[rank] = set().union(*taken)
    needed = symmetric.SharedMemory.bytes_needed(Mock(rows=rows), parts, widths, torch.bfloat16, size)
    assert all(bytes_ == set(range(needed)) for bytes_ in used.values())


def test_the_link_of_a_call_on_gpus_is_shared_memory_where_it_is_wanted_and_had() -> None:
    span, like = Mock(rows=4, wants=(), gives=()), Mock(is_cuda=True, dtype=torch.bfloat16)
    for is_wanted, place in ((True, Mock(world_size=2, rank=0)), (True, None), (False, Mock())):
        with (
            patch.object(symmetric, "is_wanted", is_wanted),
            patch.object(symmetric, "workspace", return_value=place) as workspace,
            patch.object(journey, "Messages") as messages,
            patch.object(dist, "get_world_size", return_value=2),
        ):
            link = journey._link(span, like, 3, (8, 8), None)
        assert isinstance(link, symmetric.SharedMemory) == (is_wanted and place is not None)
        if is_wanted:
            needed = symmetric.SharedMemory.bytes_needed(span, 3, (8, 8), torch.bfloat16, 2)
            workspace.assert_called_once_with(needed, None, like.device)
        else:
            workspace.assert_not_called()
        if not isinstance(link, symmetric.SharedMemory):
            messages.assert_called_once_with(span, like, 3, (8, 8), None)
            assert link is messages.return_value


def test_the_link_of_a_call_on_the_cpu_is_messages() -> None:
    with patch.object(symmetric, "workspace", None):
        span = Mock(rows=4)
        assert isinstance(journey._link(span, torch.empty(1), 1, (8, 8), None), Messages)
