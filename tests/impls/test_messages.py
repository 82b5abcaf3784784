"""What a transport of messages sends, receives, waits for and keeps, without any other rank."""

from typing import Any
from unittest.mock import Mock, call, patch
from weakref import ref

import torch
import torch.distributed as dist

from attention_gate.impls.fused.plan import Transfer
from attention_gate.impls.fused.row_transport import Messages


class Operation:
    """Stands in for a send or a receive."""

    def __init__(self, operation: Any, tensor: torch.Tensor, *, group: Any, group_peer: int) -> None:
        self.kind = {dist.isend: "send", dist.irecv: "receive"}[operation]
        self.tensor, self.group, self.peer = tensor, group, group_peer
        self.place = (tensor.data_ptr(), tuple(tensor.shape))


class Sent:
    """What was started: batches of operations, of which nothing is kept but where their tensors lie."""

    def __init__(self) -> None:
        self.batches: list[list[tuple[str, int, Any, tuple]]] = []
        self.works: list[list[Mock]] = []

    def start(self, operations: list[Operation]) -> list[Mock]:
        assert operations, "an empty batch"
        self.batches.append([(one.kind, one.peer, one.group, one.place) for one in operations])
        self.works.append([Mock() for _ in operations])
        return self.works[-1]


def place(tensor: torch.Tensor) -> tuple[int, tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape)


def test_what_travels_and_what_is_waited_for() -> None:
    sent, group = Sent(), Mock()
    span = Mock(
        rows=6,
        own=(Transfer(0, 1, 3, 5),),
        wants=(Transfer(1, 0, 2, 3), Transfer(2, 3, 6, 0)),
        gives=(Transfer(2, 0, 5, 0), Transfer(1, 4, 6, 0)),
    )
    like = torch.zeros(1, dtype=torch.bfloat16)
    with patch("torch.distributed.P2POp", Operation), patch("torch.distributed.batch_isend_irecv", sent.start):
        transport = Messages(span, like, 2, (3, 5), group)
        assert (transport.packed.shape, transport.packed.dtype, transport.packed.device) == (
            (2, 6, 8),
            torch.bfloat16,
            like.device,
        )
        for part in (0, 1):
            buffer = torch.zeros(7, 8, dtype=torch.bfloat16)
            transport.packed[part].copy_(torch.arange(6 * 8).view(6, 8) + 64 * part)
            transport.publish()
            transport.fetch(part, buffer)
            assert sorted(sent.batches[-1]) == sorted(
                [
                    ("receive", 1, group, place(buffer[3:5])),
                    ("receive", 2, group, place(buffer[0:3])),
                    ("send", 2, group, place(transport.packed[part, 0:5])),
                    ("send", 1, group, place(transport.packed[part, 4:6])),
                ]
            )
            assert torch.equal(buffer[5:7], transport.packed[part, 1:3])
            assert not buffer[:5].any()
            assert not any(work.wait.called for work in sent.works[-1])
            transport.arrived(part)
            assert all(work.wait.call_args_list == [call()] for work in sent.works[-1])
            transport.released(part)

            grads = [torch.zeros(rows, width, dtype=torch.bfloat16) for rows in (2, 3) for width in (3, 5)]
            left = [ref(grad) for grad in grads]
            transport.send_home(part, [(span.wants[0], *grads[:2]), (span.wants[1], *grads[2:])])
            places = list(map(place, grads))
            del grads
            assert all(grad() is not None for grad in left), "what is sent is gone before it has arrived"
            assert not any(work.wait.called for work in sent.works[-1])
            coming = transport.home(part)
            assert all(work.wait.call_args_list == [call()] for work in sent.works[-1])
            assert all(grad() is None for grad in left)
            assert [(one.start, one.stop, one.keys.shape, one.values.shape) for one in coming] == [
                (0, 5, (5, 3), (5, 5)),
                (4, 6, (2, 3), (2, 5)),
            ]
            assert {one.keys.dtype for one in coming} == {torch.bfloat16}
            assert sorted(sent.batches[-1]) == sorted(
                [
                    *(("send", peer, group, where) for peer, where in zip((1, 1, 2, 2), places, strict=True)),
                    *(("receive", 2, group, place(grads)) for grads in (coming[0].keys, coming[0].values)),
                    *(("receive", 1, group, place(grads)) for grads in (coming[1].keys, coming[1].values)),
                ]
            )
            transport.consumed(part)
        transport.ended()
    # To and from each rank keys come before values.
    for kind in ("send", "receive"):
        widths = [where[1][1] for one, _, _, where in sent.batches[-1] if one == kind]
        assert widths == [3, 5, 3, 5]


def test_where_nothing_travels_nothing_is_started() -> None:
    with patch("torch.distributed.batch_isend_irecv", side_effect=AssertionError):
        transport = Messages(Mock(rows=2, own=(), wants=(), gives=()), torch.zeros(1), 1, (3, 5), None)
        transport.fetch(0, torch.zeros(0, 8))
        transport.arrived(0)
        transport.send_home(0, [])
        assert transport.home(0) == []


def test_what_is_packed_is_of_the_tensors_device() -> None:
    with torch.device("meta"):
        transport = Messages(Mock(rows=2, own=(), wants=(), gives=()), torch.zeros(1, device="cpu"), 1, (3, 5), None)
    assert transport.packed.device == torch.device("cpu")
