"""Memory that GPUs share, without one: when it is asked for, what lies where in it, and which stream waits for what."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import MagicMock, Mock, call, patch
from weakref import ref

import numpy as np
import pytest
import torch
from torch import Tensor

from attention_gate.impls.fused import symmetric
from attention_gate.impls.fused.plan import Transfer


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
        transport = symmetric.SharedMemory(place, Mock(rows=4, wants=(), gives=()), torch.bfloat16, 2, (8, 8))
        transport.released(1)
        transport.consumed(1)
        assert place.read is None
        transport.ended()
        assert place.read == "ended"


@pytest.mark.parametrize("sends", [False, True])
def test_a_captured_pass_waits_for_nothing_before_it_and_leaves_nothing_behind(sends: bool) -> None:
    before, stream = Mock(), Mock()
    place = Mock(world_size=2, rank=0, fetched=before.fetched, read=before.read)
    with (
        patch.object(symmetric, "is_captured", lambda: True),
        patch.object(symmetric, "_event", Mock()),
        patch("torch.cuda.current_stream", lambda: stream),
        patch("torch.cuda.stream", MagicMock()),
    ):
        transport = symmetric.SharedMemory(place, Mock(rows=4, wants=(), gives=()), torch.bfloat16, 1, (8, 8))
        if sends:
            transport.send_home(0, [])
        transport.ended()
    assert before.mock_calls == []
    assert (place.fetched, place.read) == (None, None)
    joined = [place.fetching, place.homing] if sends else [place.fetching]
    assert stream.wait_stream.mock_calls == [call(each) for each in joined]


class Asked:
    """What a workspace is asked for, step by step, where no rank of the group has said that it shares any memory."""

    def __init__(self, objection: str = "", makes: bool = True) -> None:
        self.steps: list[Any] = []
        self.kept: dict[Any, Any] = {}
        self.old: Any = lambda: None
        self._objection, self._makes = objection, makes

    def objection(self, *_: Any) -> str:
        self.steps.append("ask")
        return self._objection

    def new_name(self, *_: Any) -> str:
        self.steps.append("name")
        return f"meeting {self.steps.count('name')}"

    def make(self, size: int, group: Any, device: torch.device, name: str) -> Any:
        assert group not in self.kept
        assert self.old() is None, "the old memory is there still"
        assert name == f"meeting {self.steps.count('name')}"
        self.steps.append(size)
        if not self._makes:
            return "out of memory"
        made = Mock(size=size, spec=symmetric.Workspace)
        self.old = ref(made)
        return made

    def workspace(self, size: int) -> Any:
        with ExitStack() as stack:
            for name, stand_in in (
                ("_objection", self.objection),
                ("_make", self.make),
                ("_shared", self.kept),
                ("new_name", self.new_name),
            ):
                stack.enter_context(patch.object(symmetric, name, stand_in))
            stack.enter_context(patch("torch.cuda.synchronize", lambda _: self.steps.append("synchronize")))
            return symmetric.workspace(size, "group", torch.device("cuda"))  # type: ignore[arg-type]


def test_a_workspace_is_kept_while_it_is_large_enough() -> None:
    """What replaces it is made when all ranks have done with it, and it is gone."""
    asked = Asked()
    first = asked.workspace(1)
    assert asked.steps == ["ask", "synchronize", "name", 2 << 20]
    for size in (1, 2 << 20):
        assert asked.workspace(size) is first
    assert asked.steps[4:] == []
    del first
    assert asked.workspace((2 << 20) + 1).size == 4 << 20
    assert asked.steps[4:] == ["synchronize", "name", 4 << 20]
    with patch.object(symmetric, "_shared", asked.kept | {"another group": "several hosts"}):
        assert symmetric.held_bytes() == 4 << 20
        assert symmetric.refusal("group") == ""  # type: ignore[arg-type]
        assert symmetric.refusal("another group") == "several hosts"  # type: ignore[arg-type]
        assert symmetric.refusal("a third group") is None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("asked", "steps", "reason"),
    [
        (Asked(objection="several hosts"), ["ask"], "several hosts"),
        (Asked(makes=False), ["ask", "synchronize", "name", 2 << 20], "out of memory"),
    ],
)
def test_ranks_without_memory_are_asked_once_and_say_why_once(
    asked: Asked, steps: list[Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    with patch("warnings.warn") as warn, caplog.at_level("INFO"):
        for size in (1, 1, 3 << 20):
            assert asked.workspace(size) is None
    assert asked.steps == steps
    said = [entry.args[0] for entry in warn.call_args_list] + [record.getMessage() for record in caplog.records]
    assert said == [f"ranks send messages: {reason}"]
    assert asked.kept == {"group": reason}


def made_workspace() -> symmetric.Workspace:
    """Return a workspace of a rank without GPU, its handle a stand-in."""
    with patch("torch.cuda.Stream") as stream:
        place = symmetric.Workspace(torch.empty(100, dtype=torch.uint8), Mock(), 1, 3)
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


def inboxes(transport: symmetric.SharedMemory, part: int, sender: int, first: int, last: int) -> list[set[int]]:
    """Return which bytes of its own memory hold a sender's gradients, of keys and of values."""
    rank = transport._place.rank
    found: Any = transport._inboxes(rank, part, sender, first, last)
    assert [owner for owner, _ in found] == [rank] * 2
    return [inbox for _, inbox in found]


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
        transport = symmetric.SharedMemory(place, Mock(rows=rows, wants=(), gives=()), torch.bfloat16, parts, widths)
        owner, packed = transport.packed  # type: ignore[misc]
        taken = [packed]
        assert owner == rank
        others = [other for other in range(size) if other != rank]

        for part in range(min(2, parts)):
            for other in others:
                taken += inboxes(transport, part, other, 0, rows)
                # Rows by themselves lie where they do among all of them.
                spans = [inboxes(transport, part, other, *rows_of) for rows_of in ((0, rows), (0, 3), (3, rows))]
                for whole, *some in zip(*spans, strict=True):
                    assert set.union(*some) == whole
                    assert sum(map(len, some)) == len(whole)
                # The part after the next takes the same place.
                assert inboxes(transport, part, other, 0, rows) == inboxes(transport, part + 2, other, 0, rows)
        assert sum(map(len, taken)) == len(set().union(*taken))
        used[rank] = set().union(*taken)
    needed = symmetric.SharedMemory.bytes_needed(Mock(rows=rows), parts, widths, torch.bfloat16, size)
    assert all(bytes_ == set(range(needed)) for bytes_ in used.values())


class Recorded:
    """Streams and events that do nothing but say on which stream what happened, in order."""

    def __init__(self) -> None:
        self.log: list[tuple[str, ...]] = []
        self.current = "caller"
        self._events = 0

    @contextmanager
    def stream(self, stream: Any) -> Iterator[None]:
        before, self.current = self.current, stream.name
        try:
            yield
        finally:
            self.current = before

    def event(self) -> Any:
        self._events += 1
        name = f"event {self._events}"
        self.log.append(("record", self.current, name))
        event = Mock()
        event.wait = lambda: self.log.append(("wait", self.current, name))
        event.name = name
        return event

    def made_stream(self, name: str) -> Any:
        stream = Mock()
        stream.name = name
        stream.wait_stream = lambda other: self.log.append(("wait", name, other))
        return stream

    def barrier(self, channel: int) -> None:
        self.log.append(("barrier", self.current, {0: "published", 1: "home"}[channel]))


class Copied(torch.Tensor):
    """A tensor that has it noted when it is copied to."""

    recorded: Recorded

    def copy_(self, source: Tensor, *_: Any) -> Tensor:  # type: ignore[override]
        self.recorded.log.append(("copy", self.recorded.current))
        return super().copy_(source)


def place_of(recorded: Recorded, rank: int, memory: dict[int, Tensor]) -> Any:
    Copied.recorded = recorded
    place = Mock(rank=rank, world_size=2, fetched=recorded.event(), read=recorded.event())
    place.fetching, place.homing = recorded.made_stream("fetching"), recorded.made_stream("homing")
    place.handle.barrier = recorded.barrier

    def of(peer: int, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        assert start % dtype.itemsize == 0
        begin, count = start // dtype.itemsize, int(np.prod(shape))
        return memory[peer][begin : begin + count].view(shape).as_subclass(Copied)

    place.of = of
    return place


def test_which_stream_waits_for_what() -> None:
    """Three parts of a forward and a backward pass of rank 1 of two, whose memory all is this process's."""
    recorded, parts, rows, widths = Recorded(), 3, 4, (3, 5)
    elements = symmetric.SharedMemory.bytes_needed(Mock(rows=rows), parts, widths, torch.float32, 2) // 4
    memory = {rank: torch.arange(float(elements)) * (rank + 1) for rank in (0, 1)}
    packed = memory[0][: parts * rows * 8].view(parts, rows, 8).clone()
    place = place_of(recorded, 1, memory)
    wants = (Transfer(0, 0, 2, 3), Transfer(0, 2, 4, 0))
    span = Mock(rows=rows, own=(Transfer(1, 3, 4, 2),), wants=wants, gives=(Transfer(0, 1, 4, 0),))
    done: dict[str, list[Any]] = {}

    with (
        patch.object(symmetric, "_event", recorded.event),
        patch("torch.cuda.current_stream", lambda: recorded.current),
        patch("torch.cuda.stream", recorded.stream),
    ):

        def take(what: str, function: Any, *arguments: Any) -> Any:
            recorded.log.clear()
            result = function(*arguments)
            done[what] = list(recorded.log)
            return result

        transport = take("begin", symmetric.SharedMemory, place, span, torch.float32, parts, widths)
        take("publish", transport.publish)
        for part in range(parts):
            buffer = torch.zeros(5, 8).as_subclass(Copied)
            take(f"fetch {part}", transport.fetch, part, buffer)
            assert torch.equal(buffer[3:5], packed[part, :2])
            assert torch.equal(buffer[:2], packed[part, 2:])
            assert torch.equal(buffer[2], transport.packed[part, 3])
            take(f"arrived {part}", transport.arrived, part)
            take(f"released {part}", transport.released, part)
        for part in range(parts):
            grads = [torch.full((2, width), 100.0 * part + width) for width in widths]
            take(f"send {part}", transport.send_home, part, [(wants[0], *grads)])
            keys, values = transport._inboxes(0, part, 1, 0, rows)
            assert all(torch.equal(inbox[:2], grad) for inbox, grad in zip((keys, values), grads, strict=True))
            for inbox in transport._inboxes(1, part, 0, 0, rows):
                inbox.fill_(-part - 1.0)
            ((start, stop, *came),) = take(f"home {part}", transport.home, part)
            assert (start, stop) == (1, 4)
            assert [tuple(rows_of.shape) for rows_of in came] == [(3, 3), (3, 5)]
            assert all((rows_of == -part - 1.0).all() for rows_of in came)
            take(f"consumed {part}", transport.consumed, part)
        take("end", transport.ended)

    def named(what: str) -> str:
        """Return the event that this step left."""
        ((_, _, name),) = [entry for entry in done[what] if entry[0] == "record"][-1:]
        return name

    assert done["begin"] == [("wait", "caller", "event 1"), ("wait", "caller", "event 2")]
    assert done["publish"] == [("wait", "fetching", "caller"), ("barrier", "fetching", "published")]
    copies = [("copy", "fetching")] * 3
    for part in range(parts):
        arrival = done[f"fetch {part}"][-1 if part < parts - 1 else -3]
        assert arrival[:2] == ("record", "fetching")
        assert done[f"arrived {part}"] == [("wait", "caller", arrival[2])]
        assert done[f"released {part}"] == [("record", "caller", named(f"released {part}"))]
        waits = [("wait", "fetching", named(f"released {part - 2}"))] if part >= 2 else []
        last = [("barrier", "fetching", "published"), ("record", "fetching", place.fetched.name)]
        assert done[f"fetch {part}"] == [*waits, *copies, arrival, *(last if part == parts - 1 else [])]
        before = [("wait", "homing", named(f"consumed {part - 1}"))] if part else []
        homecoming = named(f"send {part}")
        assert done[f"send {part}"] == [
            ("wait", "homing", "caller"),
            *[("copy", "homing")] * 2,
            *before,
            ("barrier", "homing", "home"),
            ("record", "homing", homecoming),
        ]
        assert done[f"home {part}"] == [("wait", "caller", homecoming)]
        assert done[f"consumed {part}"] == [("record", "caller", named(f"consumed {part}"))]
    assert done["end"] == [("record", "caller", place.read.name)]
    assert not any((transport._arrivals, transport._homecomings, transport._leaving))


def test_gradients_that_leave_are_kept_until_they_are_home() -> None:
    recorded = Recorded()
    memory = {rank: torch.zeros(1000) for rank in (0, 1)}
    span = Mock(rows=4, wants=(Transfer(0, 0, 4, 0),), gives=())
    with (
        patch.object(symmetric, "_event", recorded.event),
        patch("torch.cuda.current_stream", lambda: recorded.current),
        patch("torch.cuda.stream", recorded.stream),
    ):
        transport = symmetric.SharedMemory(place_of(recorded, 1, memory), span, torch.float32, 1, (3, 5))
        grads = [torch.zeros(4, 3), torch.zeros(4, 5)]
        left = [ref(grad) for grad in grads]
        transport.send_home(0, [(span.wants[0], *grads)])
        del grads
        assert all(grad() is not None for grad in left)
        assert transport.home(0) == []
        assert all(grad() is None for grad in left)


def test_an_event_is_there_once_it_is_recorded() -> None:
    with patch("torch.cuda.Event") as made:
        assert symmetric._event() is made.return_value
    made.return_value.record.assert_called_once_with()


@pytest.mark.parametrize(
    ("backends", "expected"),
    [
        ("cpu:gloo,cuda:nccl", ""),
        ("cuda:nccl", ""),
        ("cpu:gloo,cuda:gloo", "the group's backends are cpu:gloo,cuda:gloo, not NCCL: its ranks may share a GPU"),
    ],
)
def test_memory_is_asked_for_where_ranks_have_a_gpu_each(backends: str, expected: str) -> None:
    group: Any = object()
    with (
        patch.object(symmetric.dist, "get_backend_config", return_value=backends),
        patch.object(symmetric, "gather_bytes", lambda payload, group, device: [payload, payload]),
    ):
        assert symmetric._objection(group, torch.device("cuda")) == expected
