"""What the simulated network refuses to carry, with the reason: before a wrong address is read or a result made up."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from attention_gate.verify.rank.collectives import REDUCTIONS
from attention_gate.verify.rank.simulated_backend import _check, _reduction


def on(device: str) -> Any:
    """A stand-in for a tensor on that device, of which there may be none here."""
    return SimpleNamespace(device=torch.device(device), is_contiguous=lambda: True)


def test_tensors_of_one_call_are_on_one_device() -> None:
    _check("all_gather", [on("cuda:0"), on("cuda:0")])
    _check("all_gather", [on("cpu"), on("cpu")])
    for devices in (("cpu", "cuda:0"), ("cuda:0", "cpu"), ("cuda:0", "cuda:1")):
        with pytest.raises(ValueError, match=f"all_gather: tensors are on {' and '.join(sorted(devices))}; those of"):
            _check("all_gather", [on(device) for device in devices])


def test_other_devices_than_cpus_and_gpus_are_refused() -> None:
    with pytest.raises(ValueError, match="send: a tensor is on meta; the simulated network carries those on a CPU or"):
        _check("send", [on("meta")])


def test_the_reduction_that_nccl_alone_has_is_refused() -> None:
    with pytest.raises(ValueError, match="reduction PREMUL_SUM: the simulated network takes SUM, AVG"):
        _reduction(SimpleNamespace(reduceOp=dist.ReduceOp.PREMUL_SUM))


@pytest.mark.parametrize("name", REDUCTIONS)
def test_all_others_are_known(name: str) -> None:
    assert _reduction(SimpleNamespace(reduceOp=getattr(dist.ReduceOp, name))) == name
