"""A mutant: a mistake, as a small change to the text of an implementation that is right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Mutant:
    """One mistake, and the checks that are expected to catch it.

    ``name`` is its number. ``mistake`` says in words what is wrong. ``base`` names the implementation that it changes;
    every ``old`` of ``changes`` occurs there exactly once. ``source`` says where the mistake was seen. ``world`` is
    the smallest number of ranks at which it shows. ``caught_by`` names checks that must each catch it, the one meant
    for it first. ``capabilities`` are those of its Target. ``keeps``: the change has no observable effect, so every
    check must pass.
    """

    name: str
    mistake: str
    base: str
    changes: tuple[tuple[str, str], ...]
    source: str = ""
    world: int = 1
    caught_by: tuple[str, ...] = ()
    capabilities: dict[str, Any] = field(default_factory=dict)
    keeps: bool = False
