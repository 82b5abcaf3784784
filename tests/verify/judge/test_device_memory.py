"""A call that finds no memory on its GPU is no verdict on the target, in whatever check it happens."""

from pathlib import Path

import pytest

import attention_gate
from attention_gate.verify.judge.device_memory import NoDeviceMemory, refuse_without_memory
from attention_gate.verify.rank.jobs import Raised, Returned, Run

TARGET = """
import torch
from attention_gate.impls import collective

def attend(query, key, value, **options):
    if torch.distributed.get_rank() == 1:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 32.00 MiB. GPU 0 has no more")
    return collective.attend(query, key, value, **options)
"""


def test_the_run_says_that_it_could_not_judge(tmp_path: Path) -> None:
    file = tmp_path / "target.py"
    file.write_text(TARGET)
    report = attention_gate.check(f"{file}:attend", profile="quick", checks=["forward"], world_sizes=[2])
    assert report.verdict == "error"
    assert "the GPU of rank 1 had no memory left (CUDA out of memory. Tried" in str(report.error)


@pytest.mark.parametrize(
    ("message", "is_memory"),
    [
        ("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`", True),
        ("CUDA error: out of memory", True),
        ("CUDA error: an illegal memory access was encountered", False),
    ],
)
def test_the_first_that_raised_counts(message: str, is_memory: bool) -> None:
    first, later = Raised("RuntimeError", message, "", 1.0), Raised("RuntimeError", "CUDA out of memory", "", 2.0)
    run = Run((Returned(None, 0.0), later, first), 3.0)
    if is_memory:
        with pytest.raises(NoDeviceMemory, match="rank 2"):
            refuse_without_memory(run)
    else:
        refuse_without_memory(run)
