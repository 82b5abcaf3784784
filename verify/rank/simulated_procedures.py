"""Calls of the target on the simulated network, split into forward and backward."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator

from attention_gate.verify.rank.attended import Attended, Call, Inputs
from attention_gate.verify.rank.endpoint import Endpoint
from attention_gate.verify.rank.procedures import PROCEDURES
from attention_gate.verify.rank.resource_use import Memory, Work
from attention_gate.verify.rank.simulated_backend import endpoint

_NOT_A_MEMBER = "does not belong to the given group"


def simulate(call: Call) -> list[Attended]:
    """All forward passes, then the backward passes. Options: model, order of the backwards, count_work."""
    with taking_part(call) as end:
        calls = [Inputs(call, k) for k in range(len(call.cases))]
        with Work(end.add_work) if call.options.get("count_work") else contextlib.nullcontext():
            end.enter("forward")
            for inputs in calls:
                inputs.forward()
            end.enter("backward")
            for k in call.options.get("order", range(len(calls))):
                calls[k].backward()
            end.enter("after")
    return [inputs.finish() for inputs in calls]


def weigh(call: Call) -> dict[str, int]:
    """One call; the peak of live bytes beyond the inputs in each pass. Option: model."""
    with taking_part(call) as end:
        inputs = Inputs(call, 0)
        end.enter("forward")
        with Memory() as forward:
            inputs.forward()
        end.enter("backward")
        with Memory() as backward:
            inputs.backward()
    return {"forward": forward.peak, "backward": forward.held + backward.peak}


@contextlib.contextmanager
def taking_part(call: Call) -> Iterator[Endpoint]:
    """Context manager: this rank's operations go to the network; at the end the network learns how the rank ended."""
    end = endpoint()
    end.begin(call.options["model"])
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            yield end
        end.remarks += [f"uses a group that it is not in: {w.message}" for w in seen if _NOT_A_MEMBER in str(w.message)]
    except BaseException:
        end.end(failed=True)
        raise
    end.end(failed=False)


PROCEDURES["simulate"] = simulate
PROCEDURES["weigh"] = weigh
