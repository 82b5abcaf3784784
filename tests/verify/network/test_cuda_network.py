"""The simulated network carries tensors of a GPU, however many ranks share it."""

from collections.abc import Iterator

import pytest
import torch

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import MODELS, Schedule
from attention_gate.verify.network.simulated_worlds import SimulatedWorlds, Simulation
from attention_gate.verify.target.loading import as_target
from attention_gate.verify.world.local import Worlds

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="it carries tensors of a GPU, and here is none")


@pytest.fixture(scope="module")
def network() -> Iterator[SimulatedWorlds]:
    """Worlds whose ranks share the GPUs of this machine."""
    with SimulatedWorlds(device="cuda") as worlds:
        yield worlds


def run(function: str, network: SimulatedWorlds, size: int, model: str, choices: tuple[int, ...] = ()) -> Simulation:
    """A call of one of the exchanges on so many ranks."""
    target, source = as_target(f"tests.verify.network.cuda_operations:{function}")
    session = Session(target, source, Worlds(device="cuda"), (size,), network=network)
    case = Case(world_size=size, length=size, requires_grad="")
    return simulate(session, case, schedule=Schedule(model, choices), judged=False)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("choices", [(), (5, 2, 7, 1)])
def test_operations_give_what_torch_promises(network: SimulatedWorlds, model: str, choices: tuple[int, ...]) -> None:
    assert run("exchange", network, 3, model, choices).finding is None


def test_an_unbatched_ring_of_cuda_tensors_is_a_deadlock(network: SimulatedWorlds) -> None:
    assert run("unbatched", network, 2, "eager").finding is None
    finding = run("unbatched", network, 2, "stream").finding
    assert finding is not None
    assert finding.outcome == "hang"
    assert "deadlock" in finding.headline


def test_a_buffer_that_is_overwritten_while_it_is_sent_is_seen(network: SimulatedWorlds) -> None:
    finding = run("overwrites", network, 2, "rendezvous").finding
    assert finding is not None
    assert "writes to a buffer" in finding.headline
