"""Stacks and tracebacks cut to the frames that their reader wrote."""

from __future__ import annotations

import re

_FRAME = re.compile(r'^\s*File "(?P<file>.*?)", line \d+')
_FOREIGN = re.compile(r"[/\\](site|dist)-packages[/\\]torch[/\\]")


def own_frames(text: str) -> list[str]:
    """The lines of a stack or traceback without torch's own frames; all of them if there are no others."""
    frames: list[list[str]] = []
    for line in text.rstrip().splitlines():
        if _FRAME.match(line) or not frames:
            frames.append([])
        frames[-1].append(line)
    own = [frame for frame in frames if not ((match := _FRAME.match(frame[0])) and _FOREIGN.search(match["file"]))]
    return [line for frame in own or frames for line in frame]
