"""The marks of outcomes in text, and how they are coloured on a terminal."""

from __future__ import annotations

MARKS = {
    "pass": "ok",
    "fail": "FAIL",
    "crash": "CRASH",
    "hang": "HANG",
    "unsupported": "-",
    "blocked": "blocked",
    "not run": "not run",
    "known": "known",
    "stale": "STALE",
}

#: As rich names them.
STYLES = {
    "pass": "green",
    "fail": "bold red",
    "crash": "bold red",
    "hang": "bold red",
    "unsupported": "dim",
    "blocked": "yellow",
    "not run": "yellow",
    "known": "yellow",
    "stale": "bold red",
}
