"""What a new process needs to become a rank of a world."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Seat:
    """The address of a rank: its number, the world's size, the rendezvous (a file, or tcp://…), device and backend."""

    rank: int
    world_size: int
    store: str
    device: str
    backend: str


@dataclass(frozen=True)
class Surroundings:
    """What a worker takes over from the gate: where modules are found, the folder, the environment, its memory."""

    path: list[str]
    cwd: str | None
    environment: dict[str, str]
    memory: int | None
