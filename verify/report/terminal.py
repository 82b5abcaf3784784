"""Whether a stream is a terminal that shows tables and colours; rich, which draws them, is imported there alone."""

from __future__ import annotations

import importlib.util
import os
from typing import IO


def is_rich(stream: IO[str]) -> bool:
    """Whether to write tables and colours there.

    Not to files and pipes, not in continuous integration (CI), not on terminals that cannot move the cursor
    (TERM=dumb), and not without rich. NO_COLOR leaves the tables and takes the colours, which rich sees to.
    """
    ci = os.environ.get("CI", "").lower() not in ("", "0", "false")
    dumb = os.environ.get("TERM", "") in ("", "dumb")
    return stream.isatty() and not ci and not dumb and importlib.util.find_spec("rich") is not None
