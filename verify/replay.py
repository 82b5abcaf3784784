"""Saved examples: JSON with a schema version, checked on load; data that says what to run, never code."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from verify.case import Case
from verify.report import Example
from verify.target import Source, TargetError, parse_source

if TYPE_CHECKING:
    from verify.report import Failure
    from verify.session import Session

SCHEMA = 1
_LARGEST_BYTES = 1 << 20
_FIELDS = {"schema": int, "target": str, "check": str, "case": dict, "detail": dict, "device": str, "headline": str}


class ReplayError(Exception):
    """The file is no saved example: it is not there, damaged, too large or of a newer schema."""


@dataclass(frozen=True)
class Saved:
    """A saved example: the target that it was found in, the example, the device and what was found."""

    source: Source
    example: Example
    device: str
    headline: str


def save(folder: str, session: Session, failure: Failure) -> str:
    """Write a failure's example into the folder, whole or not at all; returns the file's path."""
    data = {
        "schema": SCHEMA,
        "target": str(session.source),
        "check": failure.example.check,
        "case": failure.example.case.to_json(),
        "detail": failure.example.detail,
        "device": session.device,
        "headline": failure.finding.headline,
    }
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{session.source.name}-{failure.example.check}.json")
    write_whole(path, json.dumps(data, indent=2) + "\n")
    return path


def load_saved(path: str) -> Saved:
    """Read a saved example; ReplayError says in one line what is wrong with the file."""
    data = _read(Path(path))
    for name, kind in _FIELDS.items():
        if name not in data:
            raise ReplayError(f"{path} has no {name!r}")
        if not isinstance(data[name], kind):
            raise ReplayError(f"{path}: {name!r} is {type(data[name]).__name__}, not {kind.__name__}")
    from verify.checks import BY_NAME

    if data["check"] not in BY_NAME:
        raise ReplayError(f"{path}: there is no check {data['check']!r}; the checks are {', '.join(BY_NAME)}")
    if data["device"] not in ("cpu", "cuda"):
        raise ReplayError(f"{path}: device is {data['device']!r}, not cpu or cuda")
    try:
        source = parse_source(data["target"])
        case = Case.from_json(data["case"])
    except (TargetError, ValueError, TypeError) as error:
        raise ReplayError(f"{path}: {error}") from error
    return Saved(source, Example(data["check"], case, data["detail"]), data["device"], data["headline"])


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ReplayError(f"{path} is larger than {_LARGEST_BYTES} bytes; a saved example never is")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReplayError(f"{path} is not there") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ReplayError(f"{path} is no saved example: {error}") from error
    if not isinstance(data, dict) or "schema" not in data:
        raise ReplayError(f"{path} is no saved example: it has no 'schema'")
    if data["schema"] != SCHEMA:
        raise ReplayError(f"{path} has schema {data['schema']!r}; this version reads schema {SCHEMA}")
    return data


def write_whole(path: str, text: str) -> None:
    """Write a file so that it is there whole or not at all; OSError names the path if it cannot be written."""
    folder = os.path.dirname(os.path.abspath(path))
    temporary = os.path.join(folder, f".{os.path.basename(path)}.{secrets.token_hex(4)}")
    try:
        # Not by tempfile, whose files nobody else may read.
        with open(temporary, "x", encoding="utf-8") as file:
            file.write(text)
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
