"""What is judged: a callable, and what it says that it supports."""

from __future__ import annotations

import dataclasses
import difflib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verify.capabilities import NOT_YET, Capability, KnownFailure, NotYet
from verify.case import Case
from verify.choices import DTYPES, LEAST_BLOCKS, one_of
from verify.layouts import Layout, layout_function

DIALECTS = ("longnet", "torchscale", "grouped-mean")
BRANCHES = ("any", "dense")
CLAIMS = ("traffic", "overlap", "memory")


class TargetError(Exception):
    """The target cannot be judged: it is not there, does not load, or is not something to call."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """An attention to be judged and the part of the contract that it supports.

    >>> target = Target(attend=my_attend, branches="dense", uneven=False, because={"uneven": "it does not pad"})

    A bare callable supports the whole contract. What is not supported is not tried, and the verdict lists it.

    - ``attend``: the callable of the contract; it must be reachable by name, since every process imports it anew.
    - ``layout``: "contiguous", "zigzag", "striped" or a function (rank, world_size, length) -> positions.
    - ``masks``: the values of is_causal it takes; ``branches``: "any", or "dense" for the single branch (length, 1).
    - ``dtypes``: names of floating types; ``dialect``: which dilated attention it means.
    - ``grouped_query``, ``value_dim`` (other than head_dim), ``uneven`` shards, ``subgroups``, ``gradients``,
      ``strides``, ``scales`` (any but the default), ``refusals`` (bad arguments raise on every rank): True, False, or
      NOT_YET, which the verdict tells apart.
    - ``replicated``: whether every rank is given the whole sequence, as by ``gather_rows``; what that sends is then not
      judged.
    - ``lse``: whether ``return_lse=True`` is supported; None: if the signature has that parameter.
    - ``least_ranks``: the smallest number of ranks that it runs on.
    - ``heads_shared``: so many ranks at a time share the heads of a block out among them, as in Ulysses inside a ring:
      so many times fewer blocks than ranks are merged, on which errors of rounding depend.
    - ``claims``: what it promises besides, of "traffic", "overlap" and "memory"; each is then judged.
    - ``fit``: a function that changes a case as little as possible into one that the target takes, and leaves alone one
      that it takes already: ``lambda case: case.replace(heads=case.heads * case.shards, kv_heads=…)``.
    - ``because``: reasons by field, for each field that declares a limit; the verdict prints them.
    - ``known_failures``: checks that fail and are accepted for a while; one that passes all the same is a failure.
    """

    attend: Callable[..., Any]
    layout: str | Layout = "contiguous"
    masks: tuple[bool, ...] = (False, True)
    branches: str = "any"
    dtypes: tuple[str, ...] = DTYPES
    dialect: str = "longnet"
    grouped_query: Capability = True
    value_dim: Capability = True
    uneven: Capability = True
    subgroups: Capability = True
    gradients: Capability = True
    strides: Capability = True
    scales: Capability = True
    refusals: Capability = True
    replicated: bool = False
    lse: bool | None = None
    least_ranks: int = 1
    heads_shared: int = 1
    claims: tuple[str, ...] = ()
    fit: Callable[[Case], Case] | None = None
    because: Mapping[str, str] = field(default_factory=dict)
    known_failures: tuple[KnownFailure, ...] = ()

    def __post_init__(self) -> None:
        if not callable(self.attend):
            raise TypeError(f"Target.attend is {self.attend!r}; it must be callable")
        layout_function(self.layout)
        one_of("Target.branches", self.branches, BRANCHES)
        one_of("Target.dialect", self.dialect, DIALECTS)
        for name, allowed in (("masks", (False, True)), ("dtypes", DTYPES)):
            value = getattr(self, name)
            if not isinstance(value, tuple) or not value or len(set(value)) != len(value):
                raise ValueError(f"Target.{name} is {value!r}; it must be a non-empty tuple without repetition")
            for entry in value:
                one_of(f"an entry of Target.{name}", entry, allowed)
        for claim in self.claims:
            one_of("an entry of Target.claims", claim, CLAIMS)
        for name in _CAPABILITIES:
            if not isinstance(getattr(self, name), bool | NotYet):
                raise ValueError(f"Target.{name} is {getattr(self, name)!r}; it must be True, False or NOT_YET")
        if type(self.replicated) is not bool:
            raise ValueError(f"Target.replicated is {self.replicated!r}; it must be True or False")
        if self.replicated and self.claims:
            raise ValueError(f"Target.claims is {self.claims}; what is replicated sends and holds everything")
        for name in ("least_ranks", "heads_shared"):
            if type(getattr(self, name)) is not int or getattr(self, name) < 1:
                raise ValueError(f"Target.{name} is {getattr(self, name)!r}; it must be a positive integer")
        if self.fit is not None and not callable(self.fit):
            raise TypeError(f"Target.fit is {self.fit!r}; it must be a function from Case to Case")
        limits = {name for name, _ in self._limits()}
        if stale := sorted(set(self.because) - limits):
            raise ValueError(
                f"Target.because explains {stale[0]!r}, which declares no limit; these do: {sorted(limits)}"
            )
        known = [entry.check for entry in self.known_failures]
        if twice := sorted({name for name in known if known.count(name) > 1}):
            raise ValueError(f"Target.known_failures has two entries for the check {twice[0]!r}")

    @property
    def returns_lse(self) -> bool:
        """Whether the lse can be asked for."""
        if self.lse is not None:
            return self.lse
        try:
            return "return_lse" in inspect.signature(self.attend).parameters
        except (TypeError, ValueError):
            return False

    @property
    def logic_dtype(self) -> str:
        """The widest dtype it takes, in which logic is judged."""
        return next(dtype for dtype in DTYPES if dtype in self.dtypes)

    def unsupported(self) -> tuple[str, ...]:
        """What the target declares that it does not support, in words, each with its reason if one is given."""
        found = []
        for name, words in self._limits():
            told = [word for word in ("not yet" * (getattr(self, name) is NOT_YET), self.because.get(name, "")) if word]
            found.append(f"{words} ({': '.join(told)})" if told else words)
        return tuple(found)

    def _limits(self) -> list[tuple[str, str]]:
        """Each limit: the field that declares it, and what is not supported."""
        found = []
        if callable(self.layout) or self.layout != "contiguous":
            name = self.layout if isinstance(self.layout, str) else getattr(self.layout, "__name__", "its own")
            found.append(("layout", f"contiguous shards, the layout is {name}"))
        if len(self.masks) == 1:
            found.append(("masks", f"is_causal={not self.masks[0]}"))
        if self.branches != "any":
            found.append(("branches", "branches other than the dense one (length, 1)"))
        if missing := [dtype for dtype in DTYPES if dtype not in self.dtypes]:
            found.append(("dtypes", f"dtype {', '.join(missing)}"))
        found += [(name, words) for name, words in _CAPABILITIES.items() if not getattr(self, name)]
        if self.replicated:
            found.append(("replicated", "what it sends, since every rank is given the whole sequence"))
        if self.least_ranks > 1:
            found.append(("least_ranks", f"fewer than {self.least_ranks} ranks"))
        if self.heads_shared > 1:
            words = f"sums over fewer than {LEAST_BLOCKS * self.heads_shared} ranks by their root-mean-square error"
            found.append(("heads_shared", f"{words}, as {self.heads_shared} share the heads of a block"))
        if self.fit is not None:
            found.append(("fit", "cases that do not fit it"))
        if not self.returns_lse:
            found.append(("lse", "return_lse (optional)"))
        return found


#: Yes-or-no fields of a target, and what is not supported where they say no.
_CAPABILITIES = {
    "grouped_query": "grouped-query attention (kv_heads < heads)",
    "value_dim": "value_dim other than head_dim",
    "uneven": "uneven shards",
    "subgroups": "sub-groups",
    "gradients": "gradients",
    "strides": "inputs that are not contiguous",
    "scales": "scale other than the default",
    "refusals": "refusing bad arguments on every rank",
}


@dataclass(frozen=True)
class Source:
    """Where a target's object is found: a module's name or a Python file, and the object's name in it."""

    module: str | None
    file: str | None
    name: str

    def __str__(self) -> str:
        return f"{self.file or self.module}:{self.name}"


def parse_source(text: str) -> Source:
    """The source that ``module:name`` or ``path/to/file.py:name`` means; TargetError if it is neither."""
    place, colon, name = text.rpartition(":")
    if not colon or not place or not all(part.isidentifier() for part in name.split(".")):
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
            f"{attend!r} cannot be found by name in another process, which every rank has to do: "
            "judge a function at the top level of a module"
        )
    file = getattr(sys.modules.get(module), "__file__", None)
    if module == "__main__" or importlib.util.find_spec(module.partition(".")[0]) is None:
        if file is None:
            raise TargetError(f"{attend!r} was defined in no file, so that no other process can import it")
        return Source(None, str(Path(file).resolve()), name)
    return Source(module, None, name)


def look(source: Source) -> None:
    """TargetError if there is nothing at that place, found out without running any of it."""
    if source.file is not None:
        if not Path(source.file).is_file():
            raise TargetError(f"target file {source.file} is not there")
        return
    package = str(source.module).partition(".")[0]
    try:
        there = package in sys.modules or importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        there = False
    if not there:
        raise TargetError(f"target {source}: no module named {package!r}; is it installed, or on PYTHONPATH?")


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
            near = difflib.get_close_matches(part, names, n=3, cutoff=0.5)
            there = ", ".join(names[:8]) or "nothing to call"
            hint = f"did you mean {' or '.join(near)}?" if near else f"it has {there}"
            raise TargetError(f"target {source}: there is no {part!r} in it; {hint}")
        found = getattr(found, part)
    if isinstance(found, Target):
        return found
    if not callable(found):
        raise TargetError(f"target {source} is {type(found).__name__}, neither callable nor a verify.Target")
    return Target(attend=found)


def _may_be_judged(value: Any) -> bool:
    return callable(value) or isinstance(value, Target)


def _load_file(path: Path) -> Any:
    if not path.is_file():
        raise TargetError(f"target file {path} is not there")
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


def supported(target: Target, **changes: Any) -> Target:
    """The same target with other capabilities."""
    return dataclasses.replace(target, **changes)
