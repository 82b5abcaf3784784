"""Where Hypothesis keeps what it remembers between runs: nowhere in the folder that the user works in."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from hypothesis import configuration

_NAME = "attention-gate-hypothesis"


@contextlib.contextmanager
def storage_elsewhere() -> Iterator[None]:
    """Context manager: Hypothesis stores in the folder for temporary files, if there is one.

    What the user's own tests in this process have chosen holds again afterwards.
    """
    try:
        folder = Path(tempfile.gettempdir()) / _NAME
    except OSError:  # there is none, so that nothing can be written here either
        yield
        return
    before = getattr(configuration, "__hypothesis_home_directory", None)
    configuration.set_hypothesis_home_dir(folder)
    try:
        yield
    finally:
        configuration.set_hypothesis_home_dir(before)
