"""What runs inside a rank of a simulated network: calls of the target, their stages told apart."""

from __future__ import annotations

import warnings

from verify.network.backend import endpoint
from verify.network.endpoint import Endpoint
from verify.procedures import PROCEDURES, Attended, Call, Inputs

_NOT_A_MEMBER = "does not belong to the given group"


def simulate(call: Call) -> list[Attended]:
    """All forward passes, then the backward passes. Options: model, order of the backwards."""
    end = endpoint()
    end.begin(call.options["model"])
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            calls = _passes(call, end)
        end.remarks += [f"uses a group that it is not in: {w.message}" for w in seen if _NOT_A_MEMBER in str(w.message)]
    except BaseException:
        end.end(failed=True)
        raise
    end.end(failed=False)
    return [inputs.finish() for inputs in calls]


def _passes(call: Call, end: Endpoint) -> list[Inputs]:
    calls = [Inputs(call, k) for k in range(len(call.cases))]
    end.stage = "forward"
    for inputs in calls:
        inputs.forward()
    end.stage = "backward"
    for k in call.options.get("order", range(len(calls))):
        calls[k].backward()
    return calls


PROCEDURES["simulate"] = simulate
