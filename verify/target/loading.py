"""Importing a target from its source."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from attention_gate.verify.target.call_signature import check_signature
from attention_gate.verify.target.choices import did_you_mean
from attention_gate.verify.target.source import Source, TargetError, near, parse_source, source_of
from attention_gate.verify.target.target import Target


def load(source: Source) -> Target:
    """Import what the source names, as a Target; TargetError says in one line what went wrong."""
    return resolve(source)[0]


def resolve(source: Source) -> tuple[Target, Source]:
    """Import what the source names, as a Target, and the source with the name that it has there.

    A source without a name means the module's only Target, or else ``target``, or else ``attend``. TargetError says in
    one line what went wrong.
    """
    module = _imported(source)
    if not source.name:
        source = dataclasses.replace(source, name=_the_one_in(module, source))
    found: Any = module
    for part in source.name.split("."):
        if not hasattr(found, part):
            names = _may_be_meant(found)
            there = ", ".join(names[:8]) or "nothing to call"
            hint = did_you_mean(part, names) or f"; it has {there}"
            raise TargetError(f"target {source}: it has no {part!r}{hint}")
        found = getattr(found, part)
    if isinstance(found, Target):
        return found, source
    if not callable(found):
        raise TargetError(f"target {source} is {type(found).__name__}, neither callable nor an attention_gate.Target")
    return Target(attend=found), source


def _imported(source: Source) -> Any:
    try:
        if source.file is not None:
            return _load_file(Path(source.file))
        assert source.module is not None
        return importlib.import_module(source.module)
    except TargetError:
        raise
    except ModuleNotFoundError as error:
        missing = error.name or ""
        if source.module is not None and (source.module + ".").startswith(missing + "."):
            raise TargetError(
                f"target {source}: no module named {missing!r}; is it installed, or on PYTHONPATH?"
            ) from error
        raise TargetError(f"target {source}: importing it failed, since it needs {missing!r}: {error}") from error
    except SyntaxError as error:
        where = f"line {error.lineno} of {near(str(error.filename))}"
        raise TargetError(
            f"target {source}: importing it failed: SyntaxError: {error.msg}, in {where}: {(error.text or '').strip()}"
        ) from error
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        raise TargetError(f"target {source}: importing it failed: {type(error).__name__}: {error}") from error


def _the_one_in(module: Any, source: Source) -> str:
    """The name of the one object of a module that is meant where none is named; TargetError if several may be."""
    targets: dict[int, str] = {}
    for name, value in vars(module).items():
        if isinstance(value, Target):
            targets.setdefault(id(value), name)
    if len(targets) == 1:
        return next(iter(targets.values()))
    usual = [name for name in ("target", "attend") if _may_be_judged(getattr(module, name, None))]
    if usual and (usual[0] == "target" or not targets):
        return usual[0]
    names = list(targets.values()) or _may_be_meant(module)
    if not names:
        raise TargetError(f"target {source}: it has nothing to judge, neither a Target nor a function")
    raise TargetError(f"target {source}: say which of these is meant: {', '.join(f'{source}:{n}' for n in names[:8])}")


def _may_be_meant(module: Any) -> list[str]:
    """Public names of what could be judged there; in a module those that it defines itself, if there are any."""
    found = {name: value for name, value in vars(module).items() if _may_be_judged(value) and not name.startswith("_")}
    if not isinstance(module, ModuleType):
        return list(found)
    own = [
        name
        for name, value in found.items()
        if isinstance(value, Target) or getattr(value, "__module__", None) == module.__name__
    ]
    return own or list(found)


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
    """A target and its source, from a Target, a callable or the text that the command line takes.

    TargetError if it cannot be found, SignatureError if it does not take the arguments that the gate passes.
    """
    if isinstance(target, str):
        found, source = resolve(parse_source(target))
        check_signature(found, source)
        return found, source
    if not isinstance(target, Target):
        source = source_of(target)
        found = Target(attend=target)
        check_signature(found, source)
        return found, source
    source = source_of(target.attend)
    # By its own name, if it has one, a replay knows what the target supports.
    named = vars(sys.modules[target.attend.__module__]).items()
    name = next((name for name, value in named if value is target), source.name)
    check_signature(target, source := dataclasses.replace(source, name=name))
    return target, source
