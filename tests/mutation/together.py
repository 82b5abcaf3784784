"""Many mutants in one program: what nobody notices together nobody notices apart, and one judgement tells."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.mutation.operators import Mutant

REPOSITORY = Path(__file__).parents[2]


@dataclass(frozen=True)
class Together:
    """Mutants of one folder, and the files that have all of their changes."""

    mutants: tuple[Mutant, ...]
    sources: dict[str, str]

    @property
    def file(self) -> str:
        """The first of the files."""
        return next(iter(self.sources))


def together(mutants: Iterable[Mutant]) -> list[Together]:
    """Return the mutants of one folder in as few programs as possible: in one, each line is changed once at most."""
    groups: list[dict[str, list[Mutant]]] = []
    for mutant in mutants:
        free = (group for group in groups if not any(_meet(mutant, other) for other in group.get(mutant.file, ())))
        group = next(free, None)
        if group is None:
            groups.append(group := {})
        group.setdefault(mutant.file, []).append(mutant)
    return [
        Together(
            tuple(mutant for of_file in group.values() for mutant in of_file),
            {file: _with_all(file, of_file) for file, of_file in group.items()},
        )
        for group in groups
    ]


def _unchanged(file: str) -> list[str]:
    return ast.unparse(ast.parse((REPOSITORY / file).read_text())).splitlines()


@cache
def _change(mutant: Mutant) -> tuple[int, int, list[str]]:
    """Return which lines a mutant replaces, from the first to the last, and by which."""
    before, after = _unchanged(mutant.file), mutant.source.splitlines()
    codes = difflib.SequenceMatcher(None, before, after, autojunk=False).get_opcodes()
    changed = [code for code in codes if code[0] != "equal"]
    _, first, _, begin, _ = changed[0]
    _, _, last, _, end = changed[-1]
    return first, last, after[begin:end]


def _meet(one: Mutant, other: Mutant) -> bool:
    (first, last, _), (begin, end, _) = _change(one), _change(other)
    return first < max(end, begin + 1) and begin < max(last, first + 1)


def _with_all(file: str, mutants: list[Mutant]) -> str:
    lines = _unchanged(file)
    for first, last, instead in sorted(map(_change, mutants), reverse=True, key=lambda change: change[:2]):
        lines[first:last] = instead
    return "\n".join(lines) + "\n"
