"""What a call changes in its process is reported and put right."""

import os
import signal

import numpy as np
import pytest
import torch

from attention_gate.verify.rank.process_state import State, seed_generators

CHANGES = {
    "the working directory": lambda: os.chdir("/"),
    "torch's default dtype": lambda: torch.set_default_dtype(torch.bfloat16),
    "torch's default device": lambda: torch.set_default_device("meta"),
    "the number of threads": lambda: torch.set_num_threads(torch.get_num_threads() + 2),
    "the grad mode": lambda: torch.set_grad_enabled(False),
    "autocast": lambda: torch.set_autocast_enabled("cpu", True),
    "torch.use_deterministic_algorithms": lambda: torch.use_deterministic_algorithms(True),
    "the precision of float32 matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "the seed of torch's default generator": lambda: torch.manual_seed(4711),
    "torch.backends.cuda.enable_flash_sdp from True to False": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "torch.backends.cuda.enable_math_sdp from True to False": lambda: torch.backends.cuda.enable_math_sdp(False),
    "torch.backends.cudnn.allow_tf32 from True to False": lambda: setattr(torch.backends.cudnn, "allow_tf32", False),
    "torch.backends.cudnn.benchmark from False to True": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "torch.backends.cudnn.deterministic": lambda: setattr(torch.backends.cudnn, "deterministic", True),
    "torch.set_flush_denormal from False to True": lambda: torch.set_flush_denormal(True),
    "torch.autograd.set_detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
    "torch.utils.deterministic.fill_uninitialized_memory": lambda: setattr(
        torch.utils.deterministic, "fill_uninitialized_memory", False
    ),
    "numpy.seterr": lambda: np.seterr(over="raise"),
    "the handler of SIGALRM": lambda: signal.signal(signal.SIGALRM, lambda *_: None),
    "the environment: HOME": lambda: os.environ.pop("HOME"),
}


@pytest.mark.parametrize("words", CHANGES)
def test_a_change_is_reported_and_put_right(words):
    os.environ.setdefault("HOME", "/")
    before = State.now()
    try:
        CHANGES[words]()
        changes = before.changes_to(State.now())
        assert len(changes) == 1
        assert changes[0].startswith(f"the call changed {words}")
    finally:
        before.restore(State.now())
    assert before.changes_to(State.now()) == []


def test_what_a_library_does_when_it_is_first_used_is_no_change(monkeypatch):
    before = State.now()
    monkeypatch.setenv("ATTENTION_GATE_TEST_NEW", "1")
    torch.rand(3)
    assert before.changes_to(State.now()) == []


def test_an_example_draws_the_same_numbers_whatever_ran_before():
    seed_generators(3, torch.device("cpu"))
    first = torch.rand(2)
    torch.rand(5)
    seed_generators(3, torch.device("cpu"))
    assert torch.equal(torch.rand(2), first)
