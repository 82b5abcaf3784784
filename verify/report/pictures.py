"""Runs as pictures (SVG): ranks as lanes, computation and waits as bars, messages as arrows, a deadlock as a cycle."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from attention_gate.verify.network.trace import Trace, Waiting
from attention_gate.verify.report import colours
from attention_gate.verify.report.filling import filled
from attention_gate.verify.report.timeline import Span, Timeline, timeline

WIDTH, LEFT = 1000.0, 70.0
_LANE, _BAR, _TOP, _AXIS, _RADIUS = 54.0, 20.0, 46.0, 38.0, 46.0

#: Ticks that an axis has at least; they stand at 1, 2 or 5 times a power of ten.
_TICKS = 5

#: What a bar or an arrow means, in the order of the legend: its class and its words.
LEGEND = (
    ("forward", "computes, forward"),
    ("backward", "computes, backward"),
    ("wait", "waits"),
    ("never", "never returned"),
    ("arrow", "message"),
    ("lost", "message that never arrived"),
)


@dataclass(frozen=True)
class Bar:
    """A bar of a lane."""

    x: float
    y: float
    width: float
    kind: str
    text: str


@dataclass(frozen=True)
class Line:
    """An arrow from one point to another."""

    x1: float
    y1: float
    x2: float
    y2: float
    kind: str
    text: str


@dataclass(frozen=True)
class Node:
    """A rank of a deadlock, on a circle, and what it waits for."""

    x: float
    y: float
    waiting: Waiting


@dataclass(frozen=True)
class Run:
    """One run as it is drawn: everything has its place."""

    title: str
    wrong: str
    top: float
    lanes: tuple[tuple[int, float], ...]
    bars: tuple[Bar, ...]
    arrows: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    bottom: float
    nodes: tuple[Node, ...]
    links: tuple[Line, ...]
    height: float


def svg(traces: Sequence[tuple[str, Trace]], *, standalone: bool = True, prefix: str = "") -> str:
    """Runs below each other on one scale of time, each with its title, whose second line says what went wrong.

    Returns an SVG document; without ``standalone`` one for a page that has the colours, its ids beginning with
    ``prefix``, which must be another one for each picture of the page.

    >>> Path("runs.svg").write_text(svg([("Robust", one.trace), ("Collective", other.trace)]))
    """
    lines = [(title, trace, timeline(trace)) for title, trace in traces]
    longest = max((line.length for *_, line in lines), default=1.0)
    runs: list[Run] = []
    for title, trace, line in lines:
        runs.append(_run(title, trace, line, runs[-1].top + runs[-1].height if runs else 0.0, longest))
    kinds = {bar.kind for run in runs for bar in run.bars} | {arrow.kind for run in runs for arrow in run.arrows}
    return filled(
        "timeline.svg.j2",
        {
            "runs": runs,
            "legend": [(kind, words) for kind, words in LEGEND if kind in kinds],
            "width": LEFT + WIDTH + 20,
            "height": (runs[-1].top + runs[-1].height if runs else 0.0) + 34,
            "left": LEFT,
            "right": LEFT + WIDTH,
            "bar": _BAR,
            "label": "; ".join(" ".join(title.split("\n")) for title, _ in traces),
            "standalone": standalone,
            "prefix": prefix,
            "light": colours.css(dark=False),
            "dark": colours.css(dark=True),
            "cut": cut,
        },
    )


def cut(text: str, size: float, width: float = WIDTH) -> str:
    """As much of a line of text as fits a width, in letters of that size."""
    most = int(width / size * 1.7)
    return text if len(text) <= most else text[: most - 2] + " …"


def ticks(length: float, places: int = _TICKS) -> list[float]:
    """Round numbers from 0 to a length, at least so many of them.

    >>> ticks(43.0)
    [0.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0]
    """
    raw = length / places
    power = 10.0 ** math.floor(math.log10(raw))
    step = max(factor * power for factor in (1, 2, 5) if factor * power <= raw)
    return [number * step for number in range(int(length / step) + 1)]


def _run(title: str, trace: Trace, line: Timeline, top: float, longest: float) -> Run:
    scale = WIDTH / longest
    name, _, wrong = title.partition("\n")

    def lane(rank: int) -> float:
        return top + _TOP + _LANE * rank

    bars = tuple(
        Bar(
            LEFT + span.start * scale,
            lane(span.rank),
            max(((longest if span.open else span.end) - span.start) * scale, 0.5),
            _kind(span),
            span.text,
        )
        for span in line.spans
    )
    arrows = []
    for arrow in line.arrows:
        down = arrow.destination > arrow.source
        ends = lane(arrow.source) + (_BAR if down else 0), lane(arrow.destination) + (0 if down else _BAR)
        places = LEFT + arrow.start * scale, ends[0], LEFT + arrow.end * scale, ends[1]
        arrows.append(Line(*places, "lost" if arrow.open else "arrow", f"{arrow.text}: {arrow.nbytes:,} bytes"))
    bottom = lane(line.size - 1) + _BAR + 12
    nodes = _circle(trace.waiting, LEFT + _RADIUS + 16, bottom + _AXIS + _RADIUS + 34)
    height = bottom + _AXIS - top
    if nodes:
        text = sum(1 + len(node.waiting.lines) for node in nodes) * 15 + 30
        height += max(2 * _RADIUS + 60, text)
    return Run(
        name,
        wrong,
        top,
        tuple((rank, lane(rank)) for rank in range(line.size)),
        bars,
        tuple(arrows),
        tuple((LEFT + time * scale, f"{time:g}") for time in ticks(longest)),
        bottom,
        nodes,
        _links(nodes),
        height,
    )


def _kind(span: Span) -> str:
    if span.open:
        return "never"
    return "wait" if span.kind == "wait" else span.stage if span.stage in ("forward", "backward") else "other"


def _circle(waiting: Sequence[Waiting], x: float, y: float) -> tuple[Node, ...]:
    """The ranks of a deadlock on a circle, those of its cycle in the order in which they wait for each other."""
    found = {one.rank: one for one in waiting}
    order: list[int] = []
    rank = next((one.rank for one in waiting if one.on_cycle), -1)
    while rank in found and rank not in order:
        order.append(rank)
        rank = found[rank].peer
    order += [rank for rank in found if rank not in order]
    turns = [2 * math.pi * place / max(len(order), 1) - math.pi / 2 for place in range(len(order))]
    return tuple(
        Node(x + _RADIUS * math.cos(turn), y + _RADIUS * math.sin(turn), found[rank])
        for rank, turn in zip(order, turns, strict=True)
    )


def _links(nodes: Sequence[Node]) -> tuple[Line, ...]:
    """An arrow from each rank to the one that it waits for, between the rims of their circles; two ranks bend apart."""
    places = {node.waiting.rank: node for node in nodes}
    links = []
    for node in nodes:
        if (other := places.get(node.waiting.peer)) is None or other is node:
            continue
        dx, dy = other.x - node.x, other.y - node.y
        far = math.hypot(dx, dy)
        aside = (-dy / far * 5, dx / far * 5)  # of two that wait for each other both arrows can be seen
        links.append(
            Line(
                node.x + dx / far * 15 + aside[0],
                node.y + dy / far * 15 + aside[1],
                other.x - dx / far * 17 + aside[0],
                other.y - dy / far * 17 + aside[1],
                "lost",
                f"rank {node.waiting.rank} waits for rank {node.waiting.peer}",
            )
        )
    return tuple(links)
