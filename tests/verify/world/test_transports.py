"""Which transport a world has on a machine with so many GPUs, and how a report names it."""

import pytest

from attention_gate.verify.run.request import Options
from attention_gate.verify.world import transports
from attention_gate.verify.world.local import LocalWorld, Worlds
from attention_gate.verify.world.transports import backend_for, in_words


@pytest.fixture
def one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with one GPU, as far as can be asked without using it."""
    monkeypatch.setattr(transports.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(transports.torch.cuda, "device_count", lambda: 1)


@pytest.mark.usefixtures("one_gpu")
def test_nccl_serves_a_gpu_for_each_rank_and_gloo_the_rest() -> None:
    assert [backend_for("cuda", size) for size in (1, 2, 4)] == ["nccl", "staged", "staged"]
    assert backend_for("cpu", 4) == "gloo"
    assert LocalWorld(2, device="cuda").backend == "staged"


@pytest.mark.usefixtures("one_gpu")
def test_the_report_says_which_serves_what() -> None:
    assert in_words("cuda", (1, 2, 4)) == (
        "nccl for 1 rank; gloo through host memory for 2, 4 ranks, which share 1 GPU"
    )
    assert in_words("cuda", (1,)) == "nccl"
    assert in_words("cpu", (1, 2)) == "gloo"
    assert Worlds(device="cuda").transport((2,)) == "gloo through host memory for 2 ranks, which share 1 GPU"
    assert Worlds(backend="simulated").transport((2,)) == "simulated"


@pytest.mark.usefixtures("one_gpu")
def test_one_gpu_is_enough_for_any_number_of_ranks() -> None:
    assert Options(device="cuda", world_sizes=(1, 2, 3, 4)).device == "cuda"


def test_without_a_gpu_the_request_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transports.torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="this machine has no CUDA device; allowed here is cpu"):
        Options(device="cuda")
