"""The pictures of a failing run on the simulated network, saved beside its example."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from attention_gate.verify.report.chrome_trace import chrome_trace
from attention_gate.verify.report.pictures import svg
from attention_gate.verify.report.whole_files import write_whole

if TYPE_CHECKING:
    from attention_gate.verify.checks.results import Failure
    from attention_gate.verify.judge.session import Session


def draw(folder: str, session: Session, failure: Failure) -> tuple[str, ...]:
    """Write the last simulated run as NAME.svg and as NAME.trace.json, for Perfetto or chrome://tracing.

    Returns their paths; none if the failing check ran on no simulated network. OSError if they cannot be written.
    """
    simulation = session.network.latest
    if simulation is None or failure.example.check not in session.network.checks:
        return ()
    path = os.path.join(folder, f"{session.source.name}-{failure.example.check}")
    write_whole(f"{path}.svg", svg([(failure.finding.headline, simulation.trace)]))
    write_whole(f"{path}.trace.json", chrome_trace(simulation.trace))
    return f"{path}.svg", f"{path}.trace.json"
