"""Pictures of runs: overlap can be seen, a deadlock too, and both formats are what they say."""

import json
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable

from attention_gate.verify.case.case import Case
from attention_gate.verify.judge.session import Session
from attention_gate.verify.judge.simulation import simulate
from attention_gate.verify.network.network import Schedule
from attention_gate.verify.network.trace import Trace
from attention_gate.verify.report.chrome_trace import chrome_trace
from attention_gate.verify.report.pictures import svg
from attention_gate.verify.report.timeline import timeline

DENSE = Case(world_size=3, length=48, head_dim=16, value_dim=16, segment_lengths=(48,), dilation_rates=(1,))


def trace_of(session: Session, model: str = "rendezvous") -> Trace:
    """The record of a run whose work was counted."""
    return simulate(session, DENSE, schedule=Schedule(model), judged=False, count_work=True).trace


def test_the_projects_own_are_distinguished_by_their_waits(session_of: Callable[..., Session]) -> None:
    lines = {name: timeline(trace_of(session_of(f"impls.{name}:attend"))) for name in ("robust", "collective")}
    waited = {
        name: sum(span.end - span.start for span in line.spans if span.kind == "wait" and span.stage == "forward")
        for name, line in lines.items()
    }
    assert waited["robust"] < waited["collective"]
    assert all(line.arrows and line.length > 0 for line in lines.values())
    assert all(span.start <= span.end <= line.length for line in lines.values() for span in line.spans)


def test_pictures_are_well_formed(session_of: Callable[..., Session]) -> None:
    trace = trace_of(session_of("impls.robust:attend"))
    picture = ElementTree.fromstring(svg([("Robust & <others>", trace), ("again", trace)]))
    texts = [element.text for element in picture.iter() if element.tag.endswith("}text")]
    assert texts.count("rank 2") == 2
    assert "Robust & <others>" in texts
    events = json.loads(chrome_trace(trace))["traceEvents"]
    starts = sum(event["ph"] == "s" for event in events)
    assert starts == sum(event["ph"] == "f" for event in events) == len(timeline(trace).arrows)
    assert {event["tid"] for event in events} == {0, 1, 2}


def test_what_went_wrong_is_cut_to_the_width_and_whole_in_its_tooltip(session_of: Callable[..., Session]) -> None:
    wrong = "deadlock: " + "which waits for rank 1, " * 40
    picture = ElementTree.fromstring(svg([(f"mine\n{wrong}", trace_of(session_of("impls.robust:attend")))]))
    (label,) = [element for element in picture.iter() if (element.text or "").startswith("deadlock") and len(element)]
    assert label[0].text == wrong
    assert label.text is not None
    assert len(label.text) < 160
    assert label.text.endswith(" …")


def test_what_never_returned_is_drawn(session_of: Callable[..., Session]) -> None:
    line = timeline(trace_of(session_of("tests.verify.network.mistakes:unbatched"), "stream"))
    assert [span.rank for span in line.spans if span.open] == [0, 1, 2]
    assert all(span.end > span.start for span in line.spans if span.open)
    assert any(arrow.open for arrow in line.arrows)
