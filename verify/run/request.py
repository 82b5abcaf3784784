"""Options of a run: how much is tried, where, and what is done with failing examples."""

from __future__ import annotations

from dataclasses import dataclass

from attention_gate.verify.checks import BY_NAME
from attention_gate.verify.checks.profiles import PROFILES
from attention_gate.verify.target.choices import TERMS, one_of
from attention_gate.verify.target.target import CLAIMS
from attention_gate.verify.world.launched_ranks import launched_by_torchrun
from attention_gate.verify.world.transports import gpus

DEFAULT_WORLD_SIZES = (1, 2, 3, 4)


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to judge: ``profile`` "quick", "standard" or "thorough"; ``checks`` by name, None for all of them.

    ``save`` is the folder for failing examples, ``claims`` and ``terms`` are promises and optional terms in addition
    to those that the target declares itself; the terms ("all",) are all of them.
    ``patience`` is how many seconds a call may work without an end, None for the usual.
    ``pictures``: failures keep their run on the simulated network, for a picture of it.
    Raises ValueError for unknown names.
    """

    profile: str = "standard"
    world_sizes: tuple[int, ...] = DEFAULT_WORLD_SIZES
    device: str = "cpu"
    seed: int = 0
    checks: tuple[str, ...] | None = None
    fail_fast: bool = False
    save: str | None = None
    claims: tuple[str, ...] = ()
    terms: tuple[str, ...] = ()
    patience: float | None = None
    pictures: bool = False

    def __post_init__(self) -> None:
        if self.terms == ("all",):
            object.__setattr__(self, "terms", tuple(TERMS))
        for term in self.terms:
            one_of("term", term, TERMS)
        for claim in self.claims:
            one_of("claim", claim, CLAIMS)
        one_of("profile", self.profile, PROFILES)
        one_of("device", self.device, ("cpu", "cuda"))
        for name in self.checks or ():
            one_of("check", name, BY_NAME)
        if self.checks is not None and not self.checks:
            raise ValueError(f"checks is empty; name at least one of {', '.join(BY_NAME)}")
        sizes = self.world_sizes
        if not sizes or any(type(size) is not int or not 1 <= size <= 64 for size in sizes):
            raise ValueError(f"world_sizes is {sizes}; it must hold integers from 1 to 64")
        if type(self.seed) is not int or self.seed < 0:
            raise ValueError(f"seed is {self.seed!r}; it must be a non-negative integer")
        if self.patience is not None and not 0 < self.patience < float("inf"):
            raise ValueError(f"patience is {self.patience!r}; it must be a positive number of seconds, or None")
        if self.device == "cuda" and not launched_by_torchrun() and not gpus():
            raise ValueError("device is cuda, but this machine has no CUDA device; allowed here is cpu")
