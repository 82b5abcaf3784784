"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets


def write_whole(path: str, text: str) -> None:
    """Write a file so that it exists whole or not at all; OSError names the path if it cannot be written."""
    folder = os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{secrets.token_hex(4)}")
    try:
        # Not by tempfile: other users may not read its files.
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
