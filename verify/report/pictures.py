"""Runs as pictures: ranks as lanes, computation and waits as bars, messages as arrows (SVG); and as a Chrome trace."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape

from attention_gate.verify.network.trace import Trace
from attention_gate.verify.report.timeline import Span, Timeline, timeline

_WIDTH, _LANE, _BAR, _LEFT, _TOP = 1000.0, 54.0, 20.0, 70.0, 46.0
_COLOURS = {
    ("compute", "forward"): "#4c9f70",
    ("compute", "backward"): "#2f6f8f",
    ("wait", "forward"): "#d9a441",
    ("wait", "backward"): "#d9a441",
}
_NEVER, _ARROW, _TEXT = "#c0392b", "#777", "#222"


def svg(traces: Sequence[tuple[str, Trace]]) -> str:
    """Runs below each other on one scale of time, each with its title, whose second line says what went wrong.

    Returns an SVG document.

    >>> Path("runs.svg").write_text(svg([("Robust", one.trace), ("Collective", other.trace)]))
    """
    lines = [(title, timeline(trace)) for title, trace in traces]
    longest = max((line.length for _, line in lines), default=1.0)
    parts: list[str] = []
    top = 0.0
    for title, line in lines:
        parts += _run(title, line, top, longest)
        top += _TOP + _LANE * line.size
    legend = "green, blue: computing, forward and backward; yellow: waiting; red: never returned, dashed: never arrived"
    parts.append(f'<text x="{_LEFT}" y="{top + 18:.0f}" fill="{_ARROW}" font-size="11">{legend}</text>')
    size = f'width="{_LEFT + _WIDTH + 20:.0f}" height="{top + 30:.0f}"'
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="12">\n'
        f"<defs>{_head('head', _ARROW)}{_head('lost', _NEVER)}</defs>\n"
        '<rect width="100%" height="100%" fill="white"/>\n'
    )
    return head + "\n".join(parts) + "\n</svg>\n"


def _head(name: str, colour: str) -> str:
    size = 'viewBox="0 0 8 8" refX="8" refY="4" markerWidth="6" markerHeight="6" orient="auto"'
    return f'<marker id="{name}" {size}><path d="M0 0 L8 4 L0 8 z" fill="{colour}"/></marker>'


def _title(text: str, y: float, colour: str, size: int) -> str:
    """A line of text, cut to the width of the picture; all of it shows under the pointer."""
    most = int(_WIDTH / size * 1.7)
    shown = text if len(text) <= most else text[: most - 2] + " …"
    words = f"{escape(shown)}<title>{escape(text)}</title>"
    return f'<text x="{_LEFT}" y="{y:.1f}" fill="{colour}" font-size="{size}">{words}</text>'


def _run(title: str, line: Timeline, top: float, longest: float) -> list[str]:
    scale = _WIDTH / longest
    name, _, wrong = title.partition("\n")
    parts = [_title(name, top + 22, _TEXT, 14), *([_title(wrong, top + 38, _NEVER, 11)] if wrong else [])]

    def lane(rank: int) -> float:
        return top + _TOP + _LANE * rank

    for rank in range(line.size):
        y = lane(rank) + _BAR / 2
        parts.append(f'<text x="8" y="{y + 4:.1f}" fill="{_TEXT}">rank {rank}</text>')
        parts.append(f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{_LEFT + _WIDTH}" y2="{y:.1f}" stroke="#ddd"/>')
    for span in line.spans:
        x, width = _LEFT + span.start * scale, max(((longest if span.open else span.end) - span.start) * scale, 0.5)
        parts.append(
            f'<rect x="{x:.1f}" y="{lane(span.rank):.1f}" width="{width:.1f}" height="{_BAR}" fill="{_colour(span)}">'
            f"<title>{escape(span.text)}</title></rect>"
        )
    for arrow in line.arrows:
        down = arrow.destination > arrow.source
        y1 = lane(arrow.source) + (_BAR if down else 0)
        y2 = lane(arrow.destination) + (0 if down else _BAR)
        x1, x2 = _LEFT + arrow.start * scale, _LEFT + arrow.end * scale
        stroke = f'stroke="{_NEVER}" stroke-dasharray="4 3"' if arrow.open else f'stroke="{_ARROW}"'
        head = "lost" if arrow.open else "head"
        parts.append(
            f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" {stroke} stroke-width="0.8" '
            f'marker-end="url(#{head})"><title>{escape(arrow.text)}: {arrow.nbytes:,} bytes</title></line>'
        )
    return parts


def _colour(span: Span) -> str:
    return _NEVER if span.open else _COLOURS.get((span.kind, span.stage), "#bbb")


def chrome_trace(trace: Trace) -> str:
    """A run as JSON that chrome://tracing and Perfetto open: a track for each rank, flows for the messages."""
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
