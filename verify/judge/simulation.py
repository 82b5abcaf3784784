"""Cases of a session run on the simulated network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.device_memory import refuse_without_memory
from attention_gate.verify.network.network import Schedule
from attention_gate.verify.network.simulated_worlds import Simulation
from attention_gate.verify.rank.jobs import Job

if TYPE_CHECKING:
    from attention_gate.verify.judge.session import Session


def simulate(
    session: Session,
    *cases: Case,
    schedule: Schedule = Schedule(),  # noqa: B008
    procedure: str = "simulate",
    judged: bool = True,
    **options: Any,
) -> Simulation:
    """All forward passes of the cases and then their backward passes, under a schedule.

    If it is to be ``judged``, the oracle answers meanwhile. See attention_gate.verify.rank.simulated_procedures
    for the options and the return value of each rank.
    """
    world = session.network[cases[0].world_size]
    positions = tuple(session.positions(case) for case in cases)
    options = {"model": schedule.model, "choices": schedule.choices, **options}
    world.submit(Job(procedure, session.source, cases, positions, session.spoken(options)))
    if judged:
        for case in cases:
            session.answer(case)
    if session.meanwhile is not None:
        session.meanwhile()
    world.collect()
    assert world.simulation is not None
    session.network.latest = world.simulation
    refuse_without_memory(world.simulation.run)
    if world.simulation.run.outcome == "returned":
        session.note(cases)
    return world.simulation
