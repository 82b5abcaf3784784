"""Mutants as files: each a separate module that any process can import by its path."""

from __future__ import annotations

import re
from pathlib import Path

from attention_gate.verify.mutants.mutant import Mutant

_BASES = Path(__file__).parent / "bases"
_SHARED = re.compile(r"^from attention_gate\.verify\.mutants\.bases\.(\w+) import [^(\n]+$", re.MULTILINE)
_FUTURE = "from __future__ import annotations\n"


def text_of(mutant: Mutant) -> str:
    """The source of the mutant's module; ValueError if a change does not fit its base exactly once."""
    text = base_text(mutant.base)
    for old, new in mutant.changes:
        if (count := text.count(old)) != 1:
            raise ValueError(f"{mutant.name}: {old!r} occurs {count} times in {mutant.base}, not once")
        text = text.replace(old, new)
    options = "".join(f", {name}={value!r}" for name, value in mutant.capabilities.items())
    return f"{text}\n\nimport attention_gate\n\nTARGET = attention_gate.Target(attend=attend{options})\n"


def base_text(base: str) -> str:
    """An implementation as one text, with what it shares with others put in, so that any of it can be changed."""
    seen: set[str] = set()

    def read(name: str) -> str:
        seen.add(name)
        return _SHARED.sub(
            lambda found: "" if found[1] in seen else read(found[1]), (_BASES / f"{name}.py").read_text()
        )

    return _FUTURE + read(base).replace(_FUTURE, "")


def write(mutant: Mutant, folder: Path) -> str:
    """Write the mutant's module; returns the target's text, as the command line takes it."""
    path = folder / f"{mutant.name.lower()}.py"
    path.write_text(text_of(mutant))
    return f"{path}:TARGET"
