"""Whole passes of several ranks, threads of this process, over a transport as late and as merciless as it may be.

What is not there yet and what is not to be read any more is not a number, and each step must come when it is due.
"""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import Mock, patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.fused import engine, pipeline, symmetric
from attention_gate.impls.fused.engine import Result
from attention_gate.impls.fused.grid import Piece, grid
from attention_gate.impls.fused.packed_plan import PackedPlan, packed_plan_of
from attention_gate.impls.fused.pipeline import Pipeline, Task, Tensors
from attention_gate.impls.fused.plan import Plan, Span, Transfer, plan_of
from attention_gate.impls.fused.row_transport import Gradients, Messages
from attention_gate.impls.tiling import Branch, Layout
from tests.impls.cases import Case, expected, whole
from tests.impls.test_fused import CASES

NAN = float("nan")
PATIENCE = 10.0


class Post:
    """What ranks have published and what gradients are on their way home."""

    def __init__(self) -> None:
        self._entries: dict[tuple, Any] = {}
        self._changed = threading.Condition()

    def put(self, key: tuple, value: Any) -> None:
        with self._changed:
            assert key not in self._entries, f"{key} comes twice"
            self._entries[key] = value
            self._changed.notify_all()

    def get(self, key: tuple) -> Any:
        with self._changed:
            assert self._changed.wait_for(lambda: key in self._entries, PATIENCE), f"{key} never comes"
            return self._entries[key]


class Member:
    """Stands for a group: a rank of it, which pass of its it is, and what was asked of the transport of each pass."""

    def __init__(self, rank: int, size: int, post: Post) -> None:
        self.rank, self.size, self.post = rank, size, post
        self.transports: list[MercilessTransport] = []

    def transport(self, span: Span, like: Tensor, parts: int, widths: tuple[int, int]) -> "MercilessTransport":
        self.transports.append(MercilessTransport(self, len(self.transports), span, like, parts, widths))
        return self.transports[-1]


class MercilessTransport:
    """A transport that gives nothing before it is waited for, and takes all away that is not to be read any more."""

    def __init__(
        self, member: Member, number: int, span: Span, like: Tensor, parts: int, widths: tuple[int, int]
    ) -> None:
        self.packed = like.new_full((parts, span.rows, sum(widths)), NAN)
        self._member, self._number, self._span, self.parts, self._widths = member, number, span, parts, widths
        self._buffers: dict[int, Tensor] = {}
        self._home: dict[int, list[Gradients]] = {}
        self.done: list[tuple[str, int]] = []

    def _note(self, what: str, part: int, *after: tuple[str, int]) -> None:
        assert (what, part) not in self.done, f"{what} {part} comes twice"
        for entry in after:
            assert entry in self.done, f"{what} {part} comes before {entry}"
        self.done.append((what, part))

    def publish(self) -> None:
        """First the first part, which others may then have, then the rest."""
        is_rest = ("publish", 0) in self.done
        packed = self.packed[1:] if is_rest else self.packed[:1]
        assert not packed.isnan().any(), "not all is packed"
        self._note("publish", int(is_rest))
        self._member.post.put(("packed", self._number, self._member.rank, is_rest), packed)

    def fetch(self, part: int, buffer: Tensor) -> None:
        self._note("fetch", part, ("publish", min(part, 1)), *[("released", part - 2)] * (part >= 2))
        assert buffer.shape == (self._span.buffer_rows, sum(self._widths))
        self._buffers[part] = buffer.fill_(NAN)

    def arrived(self, part: int) -> None:
        self._note("arrived", part, ("fetch", part))
        for want in (*self._span.wants, *self._span.own):
            packed = self._member.post.get(("packed", self._number, want.peer, part > 0))
            rows = packed[max(0, part - 1), want.start : want.stop]
            self._buffers[part][want.place : want.place + want.stop - want.start] = rows
        assert not self._buffers[part].isnan().any(), "rows of the buffer never came"

    def released(self, part: int) -> None:
        self._note("released", part, ("arrived", part))
        self._buffers[part].fill_(NAN)

    def send_home(self, part: int, outgoing: list[tuple[Transfer, Tensor, Tensor]]) -> None:
        # The place where a part's gradients arrive is free once those of the part before the last are consumed.
        self._note("send_home", part, ("released", part), *[("consumed", part - 1)] * (part >= 1))
        assert [want for want, _, _ in outgoing] == list(self._span.wants)
        for want, *grads in outgoing:
            for which, (grad, width) in enumerate(zip(grads, self._widths, strict=True)):
                assert grad.is_contiguous()
                assert grad.shape == (want.stop - want.start, width)
                key = ("home", self._number, part, self._member.rank, want.peer, want.start, which)
                self._member.post.put(key, grad.clone())

    def home(self, part: int) -> list[Gradients]:
        self._note("home", part, ("send_home", part))
        self._home[part] = [
            Gradients(
                give.start,
                give.stop,
                *(
                    self._member.post.get(("home", self._number, part, give.peer, self._member.rank, give.start, which))
                    for which in (0, 1)
                ),
            )
            for give in self._span.gives
        ]
        return self._home[part]

    def consumed(self, part: int) -> None:
        self._note("consumed", part, ("home", part))
        for grads in self._home[part]:
            grads.keys.fill_(NAN)
            grads.values.fill_(NAN)

    def ended(self) -> None:
        self._note("ended", 0, *(("released", part) for part in range(self.parts)))

    def assert_whole(self, is_backward: bool) -> None:
        steps = ["fetch", "arrived", "released"] + ["send_home", "home", "consumed"] * is_backward
        due = {(step, part) for step in steps for part in range(self.parts)} | {("publish", 0), ("ended", 0)}
        assert set(self.done) == due | ({("publish", 1)} if self.parts > 1 else set())


def rows_of(layout: Layout, is_zigzag: bool) -> list[int]:
    if is_zigzag:
        return [row for part in layout.zigzag(layout.rank) for row in part]
    return list(layout.shard(layout.rank))


def run(case: Case, member: Member, is_zigzag: bool, in_parts: bool, moves_home: bool) -> tuple[list[int], Any]:
    """Run both passes of a rank, and return its rows and what it makes of them."""
    branches = tuple(Branch(*branch) for branch in case.branches)
    layout = Layout(case.length, member.size, member.rank, case.heads, case.kv_heads, branches, case.is_causal)
    made = plan_of(layout, is_zigzag)
    assert isinstance(made, Plan), made
    rows = rows_of(layout, is_zigzag)
    query, key, value, grad_out = (torch.from_numpy(array[:, rows].copy()) for array in whole(case))
    inputs = Tensors(query, key, value)
    task = Task(made, case.head_dim**-0.5, member, in_parts)  # type: ignore[arg-type]
    with torch.device("meta"):  # a caller's default device is not that of the tensors
        out, lse = engine.forward(inputs, task)
        grads = engine.backward(inputs, Result(out, lse, grad_out), task, moves_home)
    assert len(member.transports) == (2 if made.span else 0)
    for transport, is_backward in zip(member.transports, (False, moves_home), strict=False):
        transport.assert_whole(is_backward)
    found = {"out": out, "lse": lse.transpose(1, 2), "grad_query": grads.query}
    return rows, found | ({"grad_key": grads.key, "grad_value": grads.value} if moves_home else {})


def combining(function: Any) -> Any:
    """Return the function that puts pieces together, which then sees that they lie within the tensor."""

    def within(*arguments: Any) -> None:
        (pieces,) = (given for given in arguments if isinstance(given, list))
        for piece in pieces:
            assert min(piece.origin) >= 0
            assert piece.start >= 0
        function(*arguments)

    return Mock(side_effect=within)


def run_all(
    case: Case, size: int, *, is_zigzag: bool = False, in_parts: bool = True, moves_home: bool = True
) -> list[int]:
    """Run a case on so many ranks, compare all rows with the oracle, and return in how many parts rows travelled."""
    post = Post()
    members = [Member(rank, size, post) for rank in range(size)]
    with (
        patch("attention_gate.impls.fused.pipeline.dist.get_world_size", lambda member: member.size),
        patch(
            "attention_gate.impls.fused.pipeline._transport",
            lambda span, like, parts, widths, of: of.transport(span, like, parts, widths),
        ),
        patch("attention_gate.impls.fused.plan.least_elements", 0),
        patch.object(engine, "merge", combining(engine.merge)) as merged,
        patch.object(engine, "add", combining(engine.add)) as added,
        patch.object(pipeline, "add", combining(pipeline.add)),
        ThreadPoolExecutor(size) as pool,
    ):
        answers = list(pool.map(lambda member: run(case, member, is_zigzag, in_parts, moves_home), members))
    # Of calls by several threads a mock counts not all.
    sums = len(merged.call_args_list), len(added.call_args_list)
    parts = members[0].transports[0].parts if members[0].transports else 1
    assert_few_sums(case, size, is_zigzag, parts, moves_home, *sums)
    right = expected(case)
    for rows, found in answers:
        for name, mine in found.items():
            due = right[name][:, :, rows] if name == "lse" else right[name][:, rows]
            np.testing.assert_allclose(mine.numpy(), due, rtol=0, atol=1e-12, err_msg=f"{name} of {case}, rows {rows}")
    return [transport.parts for member in members for transport in member.transports]


def made_plan(case: Case, size: int, rank: int, is_zigzag: bool) -> Plan:
    branches = tuple(Branch(*branch) for branch in case.branches)
    layout = Layout(case.length, size, rank, case.heads, case.kv_heads, branches, case.is_causal)
    made = plan_of(layout, is_zigzag)
    assert isinstance(made, Plan), made
    return made


def sums_of(own: list[int], parts: int, comes: bool) -> int:
    """Return how often a result is put together, of own blocks of these rates, and of what may come with each part.

    A piece that is whole, that of an own block whose rows all are selected, is what the others come to.
    """
    others = len(own) - any(rate == 1 for rate in own)
    if parts == 1:
        return int(others > 0 or comes or not own)
    return (others > 0) + parts * (comes or not own)


def assert_few_sums(
    case: Case, size: int, is_zigzag: bool, parts: int, moves_home: bool, merged: int, added: int
) -> None:
    """Assert that pieces are put together once in each part, and before where there are several of own blocks."""
    expected_merged = expected_added = 0
    for rank in range(size):
        made = made_plan(case, size, rank, is_zigzag)
        local, span = [rate for _, rate in made.local], made.span
        if span is None:
            expected_merged += sums_of(local, 1, False)
            expected_added += 3 * sums_of(local, 1, False)
            continue
        own, own_backward = (
            local + [block.rate for block in blocks if block.keys is None]
            for blocks in (span.blocks, span.backward_blocks)
        )
        is_remote = any(block.keys is not None for block in span.blocks)
        comes = bool(span.own) or (moves_home and bool(span.gives))
        expected_merged += sums_of(own, parts, is_remote)
        expected_added += sums_of(own_backward, parts, is_remote) + 2 * sums_of(own_backward, parts, comes)
    assert merged == expected_merged
    assert added == expected_added


MORE = {
    "many heads": Case(16, ((16, 1),), True, heads=8, kv_heads=8, batch=2),
    "segments of two ranks, of a finer and a coarser rate": Case(
        64, ((32, 4), (64, 8), (8, 1)), heads=4, kv_heads=4, batch=2
    ),
    "the same, causal": Case(64, ((32, 4), (64, 8), (64, 4)), True, heads=2, kv_heads=2),
    "a rate beyond the heads": Case(32, ((32, 4), (8, 8)), heads=3, kv_heads=3, batch=2),
    "offsets and heads": Case(32, ((32, 2), (4, 2)), True, heads=6, kv_heads=6, batch=3),
    "only local": Case(16, ((4, 1), (2, 2)), heads=4, kv_heads=4),
    "one local branch": Case(16, ((4, 1),), True, heads=4, kv_heads=2, batch=2),
    "query heads of one key head select different rows": Case(16, ((4, 2), (8, 4), (16, 4)), heads=8, kv_heads=2),
    "the same, of three heads each, causal": Case(48, ((6, 1), (12, 6), (48, 6)), True, 2, heads=6, kv_heads=2),
    "one local branch with offsets": Case(16, ((4, 2),), heads=4, kv_heads=4),
}


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("size", [1, 2, 4])
@pytest.mark.parametrize("name", CASES | MORE)
def test_all_rows_come_when_they_are_due(name: str, size: int, in_parts: bool) -> None:
    case = (CASES | MORE)[name]
    parts = run_all(case, size, in_parts=in_parts)
    if case.branches == ((case.length, 1),) and size > 1:
        most = min(2 * size, case.kv_heads) if in_parts else 1
        assert parts == [most] * 2 * size


@pytest.mark.parametrize("in_parts", [False, True])
@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize("case", [Case(48, ((48, 1),), True, 2, 4, 4), Case(24, ((24, 1),), True, heads=6, kv_heads=3)])
def test_the_zigzag_layout(case: Case, size: int, in_parts: bool) -> None:
    run_all(case, size, is_zigzag=True, in_parts=in_parts)


@pytest.mark.parametrize("name", ["dense", "spanning at two rates", "only local"])
def test_where_only_queries_want_gradients_nothing_goes_home(name: str) -> None:
    run_all((CASES | MORE)[name], 2, moves_home=False)


def test_a_pass_that_fails_ends_its_transport_all_the_same() -> None:
    transport = Mock()
    with (
        patch("attention_gate.impls.fused.pipeline.dist.get_world_size", lambda _: 2),
        patch("attention_gate.impls.fused.pipeline._transport", return_value=transport),
        patch("attention_gate.impls.fused.pipeline.TwoStreams") as streams,
    ):
        rows = torch.zeros(1, 8, 2, 2)
        layout = Layout(16, 2, 0, 2, 2, (Branch(16, 1),), False)
        made = plan_of(layout, False)
        assert isinstance(made, Plan)
        assert made.span
        under_way = Pipeline(Tensors(rows, rows, rows), made.span, Task(made, 1.0, None, True))
        with pytest.raises(MemoryError), under_way:
            raise MemoryError
    streams.return_value.join.assert_called_once_with()
    transport.ended.assert_called_once_with()


@pytest.mark.parametrize(("kv_heads", "value_dim", "parts"), [(8, 4, 1), (8, 12, 2), (8, 28, 4), (1, 28, 1)])
def test_how_many_parts_there_are_follows_from_keys_and_values(kv_heads: int, value_dim: int, parts: int) -> None:
    layout = Layout(32, 2, 0, kv_heads, kv_heads, (Branch(32, 1),), False)
    made = plan_of(layout, False)
    assert isinstance(made, Plan)
    assert made.span
    keys, values = torch.zeros(1, 16, kv_heads, 4), torch.zeros(1, 16, kv_heads, value_dim)
    with (
        patch("attention_gate.impls.fused.pipeline.dist.get_world_size", lambda _: 2),
        patch("attention_gate.impls.fused.pipeline._transport") as transport,
        patch("attention_gate.impls.fused.plan.least_elements", 8 * 16 * 8),
    ):
        assert Pipeline(Tensors(keys, keys, values), made.span, Task(made, 1.0, None, True)).parts == parts
        assert Pipeline(Tensors(keys, keys, values), made.span, Task(made, 1.0, None, False)).parts == 1
    widths = [kv_heads // count * dim for count in (parts, 1) for dim in (4, value_dim)]
    assert [width for call in transport.call_args_list for width in call.args[3]] == widths


def test_there_are_two_buffers_at_most_each_of_one_part() -> None:
    for kv_heads in (1, 4):
        layout = Layout(32, 2, 0, kv_heads, kv_heads, (Branch(32, 1),), False)
        made = plan_of(layout, False)
        assert isinstance(made, Plan)
        assert made.span
        rows = torch.zeros(1, 16, kv_heads, 4)
        with (
            patch("attention_gate.impls.fused.pipeline.dist.get_world_size", lambda _: 2),
            patch("attention_gate.impls.fused.pipeline._transport"),
            patch("attention_gate.impls.fused.plan.least_elements", 0),
        ):
            under_way = Pipeline(Tensors(rows, rows, rows), made.span, Task(made, 1.0, None, True))
        buffers = under_way._buffers
        assert len(buffers) == min(2, under_way.parts)
        assert [buffer.shape for buffer in buffers] == [(32, 8)] * len(buffers)


def test_gradients_that_no_other_block_has_are_not_added_up() -> None:
    """As in the zigzag layout: one pass over them is saved."""
    layout = Layout(48, 4, 1, 2, 2, (Branch(48, 1),), True)
    made = plan_of(layout, True)
    assert isinstance(made, Plan)
    rows = torch.zeros(1, 12, 2, 4)
    with (
        patch("attention_gate.impls.fused.pipeline.dist.get_world_size", lambda _: 4),
        patch("attention_gate.impls.fused.pipeline._transport"),
        patch.object(pipeline, "add") as added,
    ):
        assert made.span
        under_way = Pipeline(Tensors(rows, rows, rows), made.span, Task(made, 1.0, None, False))
        grads = torch.arange(2.0 * 20 * 4).view(1, 1, 1, 2, 20, 4)
        records = under_way._records(grads)
        for keys in (range(20), range(3, 23), range(5, 15), range(4, 14)):
            beside = [(range(5), records), (range(14, 30), records)]
            found = under_way._gradient(range(5, 14), [(keys, records), *beside], 1)
            place = 5 - keys.start
            assert torch.equal(found, grads[0, 0, 0, :, place : place + 9].transpose(0, 1).reshape(9, 8))
            assert found.is_contiguous()
        added.assert_not_called()
        for keys in (range(6, 20), range(4, 13), range(4, 24, 2)):
            under_way._gradient(range(5, 14), [(keys, records)], 0)
        assert added.call_count == 3
        for (_, pieces), _ in added.call_args_list:
            assert all(isinstance(piece, Piece) for piece in pieces)
            assert len(pieces) == 1


def test_the_length_that_no_shard_has_fits_32_bits() -> None:
    assert 1 << 30 <= pipeline._LONG < 1 << 31


def test_rows_that_follow_one_another_are_packed_by_one_sum() -> None:
    """Which a kernel of its own may do; others are copied."""
    for rows, rate, of_sums in ((8, 1, 1), (8, 2, 0), (4, 1, 0)):
        source = grid(torch.arange(1.0 * 8 * 2 * 3).view(1, 8, 2, 3), rows, rate)
        target = torch.zeros(source.shape)
        with patch.object(pipeline, "add", Mock(wraps=pipeline.add)) as added:
            pipeline._copy_grid(target, source)
        assert added.call_count == of_sums
        assert torch.equal(target, source)


def test_the_transport_of_a_call_on_gpus_is_shared_memory_where_it_is_wanted_and_had() -> None:
    span, like = Mock(rows=4, wants=(), gives=()), Mock(is_cuda=True, dtype=torch.bfloat16)
    had = Mock(world_size=2, rank=0)
    for is_wanted, place, is_shared in ((symmetric.is_wanted, had, True), (True, None, False), (False, had, False)):
        with (
            patch.object(symmetric, "is_wanted", is_wanted),
            patch.object(symmetric, "workspace", return_value=place) as workspace,
            patch.object(pipeline, "Messages") as messages,
            patch.object(dist, "get_world_size", return_value=2),
        ):
            transport = pipeline._transport(span, like, 3, (8, 8), None)
        assert isinstance(transport, symmetric.SharedMemory) == is_shared
        if is_wanted:
            needed = symmetric.SharedMemory.bytes_needed(span, 3, (8, 8), torch.bfloat16, 2)
            workspace.assert_called_once_with(needed, None, like.device)
        else:
            workspace.assert_not_called()
        if not is_shared:
            messages.assert_called_once_with(span, like, 3, (8, 8), None)
            assert transport is messages.return_value


def test_the_transport_of_a_call_on_the_cpu_is_messages() -> None:
    with patch.object(symmetric, "workspace", None):
        span = Mock(rows=4)
        assert isinstance(pipeline._transport(span, torch.empty(1), 1, (8, 8), None), Messages)


@pytest.mark.parametrize("length", [33, 34, 35])
def test_ranks_with_shards_of_different_lengths_take_as_many_parts(length: int) -> None:
    """At the length from which on twice as many are worthwhile, shorter shards must not be taken for themselves."""
    found = set()
    for rank in range(4):
        layout = Layout(length, 4, rank, 8, 8, (Branch(length, 1),), False)
        made = packed_plan_of(layout, False)
        assert isinstance(made, PackedPlan)
        assert made.span
        keys = torch.zeros(2, len(layout.shard(rank)), 8, 3)
        with (
            patch("attention_gate.impls.fused.pipeline.dist.get_world_size", lambda _: 4),
            patch("attention_gate.impls.fused.pipeline._transport"),
            patch("attention_gate.impls.fused.plan.least_elements", 3 * length),
        ):
            found.add(Pipeline(Tensors(keys, keys, keys), made.span, Task(made, 1.0, None, True)).parts)
    assert found == {8}
