"""Quantities on axes, drawn by matplotlib as SVG whose colours follow the page; matplotlib is the extra ``report``."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from attention_gate.verify.judge.measurements import BytesMoved
from attention_gate.verify.report import colours

#: Lines and bars of several series, told apart by colour and by their marks.
_SERIES = ("rank-0", "rank-1", "rank-2", "rank-3", "rank-4", "rank-5", "rank-6", "rank-7")
_MARKS = "osD^vPX*"


def needed() -> None:
    """ValueError that says how to install it, if matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ValueError("plots need matplotlib: pip install 'attention-gate[report]'") from error


def budgets(found: Mapping[str, Mapping[int, float]]) -> str:
    """The share of its error budget that each tensor used, over the number of ranks.

    >>> budgets({"out": {1: 0.2, 2: 0.22, 4: 0.24}})
    """

    def draw(axes: Any) -> None:
        for number, (tensor, by_ranks) in enumerate(found.items()):
            axes.plot(
                list(by_ranks),
                [100 * share for share in by_ranks.values()],
                marker=_MARKS[number % len(_MARKS)],
                color=_light(_SERIES[number % len(_SERIES)]),
                label=tensor,
            )
        axes.axhline(100, color=_light("bad"), linewidth=1.4)
        axes.annotate(
            "the budget", (1, 100), xycoords=("axes fraction", "data"), xytext=(-4, 4), textcoords="offset points",
            color=_light("bad"), ha="right",
        )  # fmt: skip
        axes.set_xlabel("ranks")
        axes.set_ylabel("share of the error budget, %")
        axes.set_yscale("symlog", linthresh=100)
        axes.set_ylim(bottom=0)
        axes.set_xticks(sorted({ranks for by_ranks in found.values() for ranks in by_ranks}))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)

    return _drawn(draw, "Share of the error budget of each tensor by number of ranks", (9.0, 3.4))


def traffic(found: Sequence[BytesMoved]) -> str:
    """What a rank moved in each pass beside the least that must move and what a dense ring moves, by ranks."""

    def draw(axes: Any) -> None:
        labels = [f"{one.ranks} ranks, {one.stage}" for one in found]
        height = 0.26
        series: list[tuple[str, str, list[float]]] = [
            ("moved", "rank-0", [one.moved for one in found]),
            ("a dense ring", "rank-7", [one.ring for one in found]),
            ("the least", "rank-2", [one.least for one in found]),
        ]
        for place, (name, colour, values) in enumerate(series):
            where = [row + (place - 1) * height for row in range(len(found))]
            axes.barh(where, [value / 1024 for value in values], height=height, label=name, color=_light(colour))
        axes.set_yticks(range(len(found)), labels)
        axes.invert_yaxis()
        axes.set_xlabel("KiB sent or received by the rank that moved most beside the least")
        axes.legend(loc="center left", bbox_to_anchor=(1.02, 0.5), frameon=False)

    return _drawn(draw, "Bytes that a rank moved beside the least", (9.0, 0.6 + 0.62 * len(found)))


def fractions(found: Mapping[str, Mapping[str, float]], *, standalone: bool = True) -> str:
    """The fraction of the floor's speed that each target reaches on each workload; the floor is the line at 1.0.

    The scale is logarithmic where a target is slower than a tenth of the floor, as on tiny workloads.
    """

    def draw(axes: Any) -> None:
        targets = list(dict.fromkeys(target for by_target in found.values() for target in by_target))
        height = 0.8 / max(len(targets), 1)
        smallest = min((share for by_target in found.values() for share in by_target.values()), default=1.0)
        for place, target in enumerate(targets):
            rows = [row for row, by_target in enumerate(found.values()) if target in by_target]
            shares = [by_target[target] for by_target in found.values() if target in by_target]
            where = [row + (place - (len(targets) - 1) / 2) * height for row in rows]
            bars = axes.barh(
                where, shares, height=0.9 * height, label=target, color=_light(_SERIES[place % len(_SERIES)])
            )
            axes.bar_label(bars, [f"{share:.3g}" for share in shares], padding=4)
        axes.axvline(1.0, color=_light("bad"), linewidth=1.4)
        axes.annotate(
            "the floor", (1.0, 1.0), xycoords=("data", "axes fraction"), xytext=(0, 4), textcoords="offset points",
            color=_light("bad"), ha="center",
        )  # fmt: skip
        if smallest < 0.1:
            axes.set_xscale("log")
            axes.set_xlim(smallest / 3, 3)
        else:
            axes.set_xlim(0, 1.3)
        axes.xaxis.set_major_formatter("{x:g}")
        axes.set_yticks(range(len(found)), list(found))
        axes.invert_yaxis()
        axes.set_xlabel("fraction of the floor's speed (the attention kernels alone), forward and backward")
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.22 - 0.1 / max(len(found), 1)), frameon=False)

    bars = sum(len(by_target) for by_target in found.values())
    words = "Fraction of the floor's speed that each target reaches, forward and backward"
    return _drawn(draw, words, (9.0, 1.6 + 0.36 * bars), standalone=standalone)


def _drawn(draw: Callable[[Any], None], label: str, size: tuple[float, float], *, standalone: bool = False) -> str:
    needed()
    with _style() as pyplot:
        figure, axes = pyplot.subplots(figsize=size)
        try:
            draw(axes)
            for side in ("top", "right"):
                axes.spines[side].set_visible(False)
            buffer = io.StringIO()
            figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
        finally:
            pyplot.close(figure)
    return _following(buffer.getvalue(), label, standalone)


@contextmanager
def _style() -> Iterator[Any]:
    """Pyplot without a screen, with letters as text and this module's colours."""
    import matplotlib

    with matplotlib.rc_context(
        {
            "svg.fonttype": "none",
            "svg.hashsalt": "attention-gate",
            "font.family": "sans-serif",
            "font.size": 10,
            "text.color": _light("ink"),
            "axes.labelcolor": _light("ink"),
            "axes.edgecolor": _light("faint"),
            "xtick.color": _light("faint"),
            "ytick.color": _light("faint"),
            "xtick.labelcolor": _light("ink"),
            "ytick.labelcolor": _light("ink"),
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": _light("line"),
            "grid.linewidth": 0.6,
            "figure.facecolor": "none",
            "axes.facecolor": "none",
            "savefig.transparent": True,
        }
    ):
        matplotlib.use("svg")
        from matplotlib import pyplot

        yield pyplot


def _light(name: str) -> str:
    return colours.COLOURS[name][0]


def _following(text: str, label: str, standalone: bool) -> str:
    """The SVG element of a document with colours that follow the page, or the reader's choice of light or dark."""
    text = text[text.index("<svg") :]
    for name, (light, _) in colours.COLOURS.items():
        text = text.replace(light, f"var(--{name})")
    # matplotlib's own sheet makes all lines of a page round.
    text = re.sub(r"<style type=\"text/css\">.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = text.replace("sans-serif", "system-ui, sans-serif").replace("'DejaVu Sans', ", "")
    styles = ""
    if standalone:
        dark = f"@media (prefers-color-scheme: dark) {{ svg {{ {colours.css(dark=True)} }} }}"
        styles = f"<style>svg {{ {colours.css(dark=False)} background: var(--ground); }} {dark}</style>"
    return re.sub(r"<svg ([^>]*)>", rf'<svg \1 role="img" aria-label="{label}">{styles}', text, count=1)
