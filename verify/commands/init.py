"""Write the test, tox environment and GitHub Actions workflow that judge an implementation, for the user to keep."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

from attention_gate.verify.commands.command_line import CONFORMS
from attention_gate.verify.report.filling import filled
from attention_gate.verify.report.whole_files import write_whole
from attention_gate.verify.target.call_signature import misfit
from attention_gate.verify.target.loading import resolve
from attention_gate.verify.target.source import TargetError, look, parse_source
from attention_gate.verify.target.target import Target
from attention_gate.verify.target.written_adapter import adapter, adapter_file

_TEMPLATES = Path(__file__).with_name("templates")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of ``init``."""
    parser.add_argument(
        "target", metavar="TARGET", help="module:name or path/to/file.py:name, as seen from the project's folder"
    )
    parser.add_argument("--folder", metavar="DIR", default=".", help="the project's folder (default: this one)")
    parser.epilog = "Existing files are not changed; the lines to add are printed."


def run(options: argparse.Namespace) -> int:
    """Write the files that do not exist yet and print what was done."""
    folder = Path(options.folder)
    if not folder.is_dir():
        raise ValueError(f"the folder {options.folder} does not exist")
    if not re.fullmatch(r"[\w./:-]*", options.target):
        raise ValueError(f"target {options.target!r} contains characters that tox.ini and a workflow would need quoted")
    target = _adapted(options.target, folder)
    is_project = any((folder / name).is_file() for name in ("pyproject.toml", "setup.py"))
    gate, torch = _gate(), _torch()
    place, _, name = target.rpartition(":")
    facts = {
        "target": target,
        "file": place if place.endswith(".py") and not Path(place).is_absolute() else None,
        "name": name,
        "gate": gate,
        "quoted_gate": f'"{gate}"' if " " in gate else gate,
        "torch": torch,
        "is_project": is_project,
    }
    test = _filled("test_attention.py.j2", facts)
    _write(folder / "tests/test_attention.py", test, test)
    _write(
        folder / "tox.ini",
        _filled("tox.ini.j2", facts | {"whole": True}),
        _filled("tox.ini.j2", facts | {"whole": False}),
    )
    workflow = _filled("attention.yml.j2", facts)
    _write(folder / ".github/workflows/attention.yml", workflow, workflow)
    if place.endswith(".py") and not (folder / place).is_file():
        print(f"note: {folder / place} does not exist yet; define {name} in it")
    if "file:" in gate:
        print(
            "note: attention-gate was installed from a local path, which other machines do not have: change its line in"
        )
        print("      tox.ini and in the workflow")
    print(f"now: python -m pytest {folder / 'tests/test_attention.py'}, or tox, or one test for each check:")
    print(f"     pytest --pyargs attention_gate --attention-target {target}")
    return CONFORMS


def _adapted(target: str, folder: Path) -> str:
    """The target by its full name; of a function that does not take what the gate passes, that of its new adapter."""
    source = parse_source(target)
    place = target.removesuffix(f":{source.name}")
    seen = replace(source, file=str((folder / place).resolve())) if source.file is not None else source
    with contextlib.suppress(TargetError):  # it may be written later, or need what only its ranks have
        look(seen)
        found, seen = resolve(seen)
        if found == Target(attend=found.attend) and misfit(found) is not None:
            text = adapter(found.attend, seen)
            file = folder.resolve() / adapter_file(seen)
            print(f"{target} does not take the arguments that the gate passes; its adapter does:")
            inside = file.is_relative_to(folder.resolve())
            _write(folder / file.relative_to(folder.resolve()) if inside else file, text, text)
            return f"{file.relative_to(folder.resolve()) if inside else file}:target"
    if not seen.name:
        raise TargetError(f"target {target}: name what is judged in it, such as {target}:attend")
    return f"{place}:{seen.name}"


def _filled(template: str, facts: dict[str, Any]) -> str:
    """The text of a template, filled in for this project."""
    return filled(template, facts, _TEMPLATES)


def _gate() -> str:
    """What installs this very gate: its name, with the place that it was installed from unless that was an index."""
    try:
        origin = json.loads(metadata.distribution("attention-gate").read_text("direct_url.json") or "{}")
    except metadata.PackageNotFoundError:
        origin = {}
    if "url" not in origin:
        return "attention-gate"
    if (repository := origin.get("vcs_info")) is not None:
        return f"attention-gate @ {repository['vcs']}+{origin['url']}@{repository['commit_id']}"
    return f"attention-gate @ {origin['url']}"


def _torch() -> str:
    """The release of torch that is here, of whatever build, so that others judge with the same."""
    version = metadata.version("torch").partition("+")[0]
    return f"torch=={version}" if re.fullmatch(r"[\d.]+", version) else "torch"


def _write(path: Path, whole: str, part: str) -> None:
    """Write a whole file where none exists; print the lines to add where one exists."""
    if path.is_file() and path.read_text(errors="replace") == whole:
        print(f"{path} exists and needs no change")
        return
    if path.exists():
        print(f"{path} exists and was not changed; add these lines:\n\n{part}")
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(str(path), whole)
    except OSError as error:
        raise ValueError(f"{path} cannot be written: {error.strerror}") from error
    print(f"wrote {path}")
