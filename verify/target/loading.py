"""Importing a target from its source."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from attention_gate.verify.target.choices import did_you_mean
from attention_gate.verify.target.source import Source, TargetError, parse_source, source_of
from attention_gate.verify.target.target import Target


def load(source: Source) -> Target:
    """Import what the source names, as a Target; TargetError says in one line what went wrong."""
    try:
        if source.file is not None:
            module = _load_file(Path(source.file))
        else:
            assert source.module is not None
            module = importlib.import_module(source.module)
    except TargetError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if source.module is not None and (source.module + ".").startswith(missing + "."):
            raise TargetError(
                f"target {source}: no module named {missing!r}; is it installed, or on PYTHONPATH?"
            ) from error
        raise TargetError(f"target {source}: importing it failed, since it needs {missing!r}: {error}") from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise TargetError(f"target {source}: importing it failed: {type(error).__name__}: {error}") from error
    found: Any = module
    for part in source.name.split("."):
        if not hasattr(found, part):
            names = [name for name, value in vars(found).items() if _may_be_judged(value) and not name.startswith("_")]
            there = ", ".join(names[:8]) or "nothing to call"
            hint = did_you_mean(part, names) or f"; it has {there}"
            raise TargetError(f"target {source}: it has no {part!r}{hint}")
        found = getattr(found, part)
    if isinstance(found, Target):
        return found
    if not callable(found):
        raise TargetError(f"target {source} is {type(found).__name__}, neither callable nor an attention_gate.Target")
    return Target(attend=found)


def _may_be_judged(value: Any) -> bool:
    return callable(value) or isinstance(value, Target)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise TargetError(f"target file {path} does not exist")
    if (folder := str(path.parent)) not in sys.path:
        sys.path.insert(0, folder)
    name = path.stem
    if name in sys.modules and getattr(sys.modules[name], "__file__", None) == str(path):
        return sys.modules[name]
    if name in sys.modules or importlib.util.find_spec(name) is None or name in sys.stdlib_module_names:
        name = f"attention_gate_target_{path.stem}"  # never shadow a module that others rely on
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def as_target(target: Target | Callable[..., Any] | str) -> tuple[Target, Source]:
    """A target and its source, from a Target, a callable or the text that the command line takes."""
    if isinstance(target, str):
        source = parse_source(target)
        return load(source), source
    if not isinstance(target, Target):
        return Target(attend=target), source_of(target)
    source = source_of(target.attend)
    # By its own name, if it has one, a replay knows what the target supports.
    named = vars(sys.modules[target.attend.__module__]).items()
    name = next((name for name, value in named if value is target), source.name)
    return target, dataclasses.replace(source, name=name)
