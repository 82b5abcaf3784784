"""What brings rows from rank to rank: where shared memory puts them, who must wait for what, and who shares any."""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.fused import symmetric
from attention_gate.impls.fused.row_transport import Messages
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
    """Let transports be those over shared memory, with streams that do everything at once."""
    places: dict[Any, symmetric.Workspace] = {}

    def transport(span: Any, like: Tensor, parts: int, widths: tuple[int, int], group: Any) -> symmetric.SharedMemory:
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
            ("attention_gate.impls.fused.pipeline._transport", transport),
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
        for want in (*self._span.wants, *self._span.own):
            rows = slice(want.place, want.place + want.stop - want.start)
            buffer[rows] = apart[rows]

    with patch.object(Messages, "fetch", late_fetch), patch.object(Messages, "arrived", late_arrival):
        answer = run_fused(rank, implementation, case)
    assert not under_way
    return answer


@pytest.mark.parametrize("name", ["dense", "dense causal", "spanning at two rates", "two dense branches"])
def test_nothing_is_read_before_it_has_arrived(name: str) -> None:
    assert_close(results(2, run_late, "robust", CASES[name]), CASES[name])


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
            patch("torch.distributed._symmetric_memory.empty", empty),
            patch.object(symmetric, "rendezvous", rendezvous),
            patch.object(symmetric, "_objection", lambda *_: ""),
            patch.object(symmetric, "new_name", lambda *_: "meeting"),
            patch.object(symmetric, "_shared", {}),
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


def run_objecting(rank: int, change: str) -> str:
    changes: list[Any] = []
    if rank == 1 and change == "host":
        changes.append(patch("socket.gethostname", lambda: "elsewhere"))
    if rank == 1 and change == "boot":
        changes.append(patch.object(symmetric, "_boot", lambda: "another"))
    if change == "switched off":
        changes.append(patch.object(symmetric, "is_wanted", False))
    changes.append(patch.object(symmetric.dist, "get_backend_config", lambda _: "cpu:gloo,cuda:nccl"))
    with on_cpu(*changes):
        members = dist.group.WORLD
        assert members is not None
        return symmetric._objection(members, torch.device("cpu" if change == "device" else "cuda"))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("nothing", ""),
        ("host", "the ranks are on several hosts"),
        ("boot", "the ranks are on several hosts"),
        ("switched off", "shared memory is switched off"),
        ("device", "cpu has no memory that ranks share"),
    ],
)
def test_memory_is_shared_on_one_host(change: str, reason: str) -> None:
    assert results(2, run_objecting, change) == [reason] * 2
