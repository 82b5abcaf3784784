"""The versions that a bug report needs, found without importing anything heavy."""

from __future__ import annotations

import platform
import tomllib
from importlib import metadata
from pathlib import Path

import attention_gate


def versions() -> str:
    """ "attention-gate 0.1.0, torch 2.13.0, Python 3.11.7"."""
    return f"attention-gate {_own()}, torch {_of('torch') or 'not installed'}, Python {platform.python_version()}"


def _of(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _own() -> str:
    """Of a checkout that is not installed, what its pyproject.toml says."""
    project = Path(attention_gate.__file__).parents[1] / "pyproject.toml"
    if project.is_file():
        version: str = tomllib.loads(project.read_text())["project"]["version"]
        return f"{version} (checkout)"
    return _of("attention-gate") or "of unknown version"
