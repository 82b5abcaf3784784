"""Files that are there whole or not at all."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile


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


def check_writable(path: str) -> None:
    """Raise ValueError if no file can be written there; for a look before the work that the file is for."""
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise ValueError(f"the folder of {path} does not exist")
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder, not a file that could be written")
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
