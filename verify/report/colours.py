"""The colours of reports and pictures, by what they mean, for light and for dark surroundings.

Text on its ground has a contrast of at least 4.5 to 1 in both. Ranks can be told from each other without colour too:
they are labelled wherever they are shown.
"""

from __future__ import annotations

#: What a colour means, and it: on a light ground and on a dark one.
COLOURS: dict[str, tuple[str, str]] = {
    "ground": ("#ffffff", "#14181d"),
    "raised": ("#f3f5f7", "#1f252c"),
    "ink": ("#1b1f24", "#e8ebee"),
    "faint": ("#57606a", "#a3adb8"),
    "line": ("#cfd6dd", "#3a434d"),
    "good": ("#1a7f37", "#56d364"),
    "bad": ("#c4162a", "#ff8a80"),
    "warn": ("#8a5a00", "#e3b341"),
    "link": ("#0959b0", "#79b8ff"),
    "forward": ("#3b8f63", "#4fb681"),
    "backward": ("#2f6f9f", "#5ba3d9"),
    "wait": ("#d9a441", "#c9922e"),
    "rank-0": ("#4878a8", "#6f9fd0"),
    "rank-1": ("#d0743c", "#e08e5c"),
    "rank-2": ("#5a9b57", "#7cbf78"),
    "rank-3": ("#9a5aa8", "#bf85cc"),
    "rank-4": ("#b0962f", "#d1b953"),
    "rank-5": ("#3a9a9a", "#5fbfbf"),
    "rank-6": ("#b5526f", "#d97c98"),
    "rank-7": ("#6f6f6f", "#9a9a9a"),
}

#: Ranks beyond them begin anew.
RANKS = sum(name.startswith("rank-") for name in COLOURS)


def css(dark: bool) -> str:
    """Declarations of all colours as custom properties, ``--ink: #1b1f24; …``."""
    return " ".join(f"--{name}: {pair[dark]};" for name, pair in COLOURS.items())


def of_rank(rank: int) -> str:
    """The colour of a rank, as a value in CSS."""
    return f"var(--rank-{rank % RANKS})"
