"""Saved examples: JSON with a schema version, checked on load; data that says what to run, never code."""

from __future__ import annotations

import dataclasses
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import hypothesis

from attention_gate.verify.case.case import Case
from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.results import Example, Failure
from attention_gate.verify.judge.session import Session
from attention_gate.verify.report.whole_files import write_whole
from attention_gate.verify.target.choices import did_you_mean
from attention_gate.verify.target.source import Source, TargetError, parse_source

SCHEMA: Literal[3] = 3
_LARGEST_BYTES = 1 << 20


class ReplayError(Exception):
    """The file is not a saved example: it does not exist, is damaged, too large or of a newer schema."""


@dataclass(frozen=True)
class SavedCall:
    """A call before the failing one, which is part of what failed."""

    check: str
    case: Case
    parameters: dict[str, Any]


@dataclass(frozen=True)
class SavedDocument:
    """A saved example as JSON has it, schema 3; saved-example.schema.json publishes it.

    ``history`` has the calls to be made before it, in fresh processes; ``hypothesis`` is the version that drew it:
    another one draws other examples from the same seed.
    """

    schema: Literal[3]
    target: str
    check: str
    case: Case
    parameters: dict[str, Any]
    history: tuple[SavedCall, ...]
    device: Literal["cpu", "cuda"]
    headline: str
    hypothesis: str = ""


@dataclass(frozen=True)
class Saved:
    """A saved example: the target that it was found in, the example, the device, what was found, the calls before."""

    source: Source
    example: Example
    device: str
    headline: str
    history: tuple[Example, ...] = ()


def save(folder: str, session: Session, failure: Failure) -> str:
    """Write a failure's example into the folder, whole or not at all; returns the file's path."""
    document = SavedDocument(
        schema=SCHEMA,
        target=session.source.address,
        check=failure.example.check,
        case=failure.example.case,
        parameters=failure.example.parameters,
        history=tuple(SavedCall(one.check, one.case, one.parameters) for one in failure.history),
        device="cuda" if session.device == "cuda" else "cpu",
        headline=failure.finding.headline,
        hypothesis=hypothesis.__version__,
    )
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{session.source.name}-{failure.example.check}.json")
    write_whole(path, json.dumps(dataclasses.asdict(document), indent=2) + "\n")
    return path


def load_saved(path: str) -> Saved:
    """Read a saved example; ReplayError says in one line what is wrong with the file."""
    data = _read(Path(path))
    _only_fields(path, data, SavedDocument, "a saved example")
    calls = data["history"] if isinstance(data.get("history"), list) else []
    for call in calls:
        if isinstance(call, dict):
            _only_fields(path, call, SavedCall, "a call before")
    for case in (data.get("case"), *(call.get("case") for call in calls if isinstance(call, dict))):
        if isinstance(case, dict):
            _only_fields(path, case, Case, "a case")
    try:
        import msgspec
    except ImportError as error:
        raise ReplayError(f"reading {path} needs msgspec: pip install msgspec") from error
    try:
        document = msgspec.convert(data, SavedDocument)
        source = parse_source(document.target)
    except (msgspec.ValidationError, TargetError) as error:
        raise ReplayError(f"{path}: {error}") from error
    for check in (document.check, *(call.check for call in document.history)):
        if check not in BY_NAME:
            near = did_you_mean(check, BY_NAME)
            raise ReplayError(f"{path}: unknown check {check!r}; the checks are {', '.join(BY_NAME)}{near}")
    example = Example(document.check, document.case, document.parameters)
    history = tuple(Example(call.check, call.case, call.parameters) for call in document.history)
    return Saved(source, example, document.device, document.headline, history)


def _only_fields(path: str, data: dict[str, Any], kind: Any, what: str) -> None:
    """ReplayError for a field that is not known: msgspec passes over those of dataclasses."""
    names = [field.name for field in dataclasses.fields(kind)]
    if unknown := sorted(set(data) - set(names)):
        near = did_you_mean(unknown[0], names)
        raise ReplayError(f"{path}: {what} has no field {unknown[0]!r}; its fields are {', '.join(names)}{near}")


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ReplayError(f"{path} is not a saved example: it is larger than {_LARGEST_BYTES} bytes")
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ReplayError(f"{path} does not exist") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ReplayError(f"{path} is not a saved example: {error}") from error
    if not isinstance(data, dict) or "schema" not in data:
        raise ReplayError(f"{path} is not a saved example: it has no 'schema'")
    if data["schema"] != SCHEMA:
        raise ReplayError(f"{path} has schema {data['schema']!r}; this version reads schema {SCHEMA}")
    return data
