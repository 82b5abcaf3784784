"""A run as JSON that chrome://tracing and Perfetto open: a track for each rank, flows for the messages."""

from __future__ import annotations

import json

from attention_gate.verify.network.trace import Trace
from attention_gate.verify.report.timeline import timeline


def chrome_trace(trace: Trace) -> str:
    """The run as JSON, on the time axis of its picture."""
    line = timeline(trace)
    events: list[dict[str, object]] = [
        {"name": "thread_name", "ph": "M", "pid": 0, "tid": rank, "args": {"name": f"rank {rank}"}}
        for rank in range(line.size)
    ]
    for span in line.spans:
        name = "never returned" if span.open else span.kind
        event: dict[str, object] = {"name": name, "cat": span.stage, "ph": "X", "pid": 0, "tid": span.rank}
        events.append(event | {"ts": span.start, "dur": span.end - span.start, "args": {"what": span.text}})
    for number, arrow in enumerate(arrow for arrow in line.arrows if not arrow.open):
        flow = {"name": "message", "cat": "message", "id": number, "pid": 0, "args": {"what": arrow.text}}
        events.append(flow | {"ph": "s", "tid": arrow.source, "ts": arrow.start})
        events.append(flow | {"ph": "f", "bp": "e", "tid": arrow.destination, "ts": arrow.end})
    return json.dumps({"traceEvents": events, "displayTimeUnit": "ns"}, indent=1) + "\n"
