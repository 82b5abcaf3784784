"""What the network sees of buffers in host memory, and does to them."""

import pytest
import torch

from attention_gate.verify.rank.buffers import HostBuffers


def test_what_is_received_into_is_poisoned_until_it_is_filled() -> None:
    sent, received = torch.ones(2), torch.zeros(2)
    buffers = HostBuffers([sent], [received])
    assert torch.isnan(received).all()
    assert not buffers.touched(sends=True)
    buffers.fill(buffers.first(), completed=False)
    assert received.tolist() == [1.0, 1.0]


@pytest.mark.parametrize("which", ["sent", "received"])
def test_a_write_is_seen(which: str) -> None:
    tensors = {"sent": torch.ones(2), "received": torch.zeros(2)}
    buffers = HostBuffers([tensors["sent"]], [tensors["received"]])
    tensors[which][1] = 5.0
    assert buffers.touched(sends=True)
    assert buffers.touched(sends=False) == (which == "received")
    assert (buffers.present() != buffers.first()) == (which == "sent")


def test_in_place_is_noticed_and_keeps_what_was_sent() -> None:
    whole = torch.ones(4)
    buffers = HostBuffers([whole[:3]], [whole[2:]])
    assert buffers.in_place
    assert buffers.first() == [torch.ones(3).numpy().tobytes()]
    assert not HostBuffers([whole[:2]], [whole[2:]]).in_place


def test_after_it_let_go_nothing_is_seen() -> None:
    sent = torch.ones(2)
    buffers = HostBuffers([sent], [torch.zeros(2)])
    buffers.let_go()
    sent.zero_()
    assert not buffers.touched(sends=True)


@pytest.mark.parametrize("dtype", [torch.bool, torch.int32, torch.bfloat16, torch.complex64])
def test_each_dtype_has_its_poison(dtype: torch.dtype) -> None:
    received = torch.zeros(3, dtype=dtype)
    buffers = HostBuffers([], [received])
    assert received.bool().all()
    assert not buffers.touched(sends=True)
