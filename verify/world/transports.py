"""What carries the messages of a world on this machine: gloo, NCCL, or gloo between ranks that share GPUs."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from attention_gate.verify.rank.staged_backend import NAME as STAGED


def backend_for(device: str, size: int) -> str:
    """The backend of a world of that many ranks."""
    if device == "cpu":
        return "gloo"
    return "nccl" if size <= gpus() else STAGED


def gpus() -> int:
    """The number of CUDA devices here."""
    return torch.cuda.device_count() if torch.cuda.is_available() else 0


def in_words(device: str, sizes: Sequence[int]) -> str:
    """What carries the messages of worlds of those sizes: "nccl", or "nccl for 1 rank; gloo through host memory …"."""
    names = {size: backend_for(device, size) for size in sizes}
    shared = [size for size, name in names.items() if name == STAGED]
    if not shared:
        return " and ".join(sorted(set(names.values())))
    staged = f"gloo through host memory for {_ranks(shared)}, which share {gpus()} GPU{'s' if gpus() > 1 else ''}"
    alone = [size for size in names if size not in shared]
    return f"nccl for {_ranks(alone)}; {staged}" if alone else staged


def _ranks(sizes: Sequence[int]) -> str:
    return f"{', '.join(map(str, sizes))} rank{'s' if max(sizes) > 1 else ''}"
