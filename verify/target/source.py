"""Where a target is found, so that every process can import it: ``module:name`` or ``path/to/file.py:name``.

Without ``:name`` the module says itself which of its objects is meant; loading finds that out.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


class TargetError(Exception):
    """The target cannot be judged: it does not exist, cannot be imported, or is not callable."""


@dataclass(frozen=True)
class Source:
    """Where a target's object is found: a module's name or a Python file, and the object's name in it, "" if open."""

    module: str | None
    file: str | None
    name: str

    @property
    def address(self) -> str:
        """What ``parse_source`` reads in any folder: a file by its whole path. This is what files store."""
        return f"{self.file or self.module}{':' * bool(self.name)}{self.name}"

    def __str__(self) -> str:
        """What a message shows: a file as a user in the current folder would type it."""
        return near(self.address)


def near(path: str) -> str:
    """A path, or a target's address, relative to the current folder where it lies in it; any other as it is."""
    try:
        here = Path.cwd()
    except OSError:  # the folder has been removed
        return path
    return str(Path(path).relative_to(here)) if Path(path).is_relative_to(here) else path


def parse_source(text: str) -> Source:
    """The source that a text means: ``module:name``, ``path/to/file.py:name``, or either without ``:name``.

    TargetError if it is neither.
    """
    place, colon, name = text.rpartition(":") if ":" in text else (text, "", "")
    named = all(part.isidentifier() for part in name.split("."))
    if not place or bool(colon) != named:
        raise TargetError(f"target {text!r} is neither module:name nor path/to/file.py:name")
    if place.endswith(".py"):
        try:
            path = Path(place).resolve()
            path.is_file()
        except (OSError, ValueError, RuntimeError) as error:
            raise TargetError(f"target file {place[:200]!r} cannot be looked up: {type(error).__name__}") from error
        return Source(None, str(path), name)
    if "/" in place or not all(part.isidentifier() for part in place.split(".")):
        raise TargetError(f"target {text!r}: {place!r} is neither the name of a module nor a file ending in .py")
    return Source(place, None, name)


def source_of(attend: Callable[..., Any]) -> Source:
    """Where another process finds that callable; TargetError if it cannot (a lambda, a local function, an instance)."""
    name, module = getattr(attend, "__qualname__", ""), getattr(attend, "__module__", None)
    if not all(part.isidentifier() for part in name.split(".")) or module is None:
        raise TargetError(
            f"{attend!r} cannot be imported by name in another process, as every rank must: "
            "define it at the top level of a module"
        )
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or importlib.util.find_spec(module.partition(".")[0]) is None:
        if file is None:
            raise TargetError(f"{attend!r} was not defined in a file, so other processes cannot import it")
        return Source(None, str(Path(file).resolve()), name)
    return Source(module, None, name)


def look(source: Source) -> None:
    """TargetError if there is nothing at that place, found out without running any of it."""
    if source.file is not None:
        if not Path(source.file).is_file():
            raise TargetError(f"target file {source.file} does not exist")
        return
    package = str(source.module).partition(".")[0]
    try:
        found = package in sys.modules or importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        found = False
    if not found:
        raise TargetError(f"target {source}: no module named {package!r}; is it installed, or on PYTHONPATH?")
