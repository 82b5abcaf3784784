"""A world of processes for each target in turn: one that crashes or hangs costs its own rows and no others."""

from __future__ import annotations

import json
import os
import tempfile
import traceback
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from verify.compare import measure

FLOOR = "floor"


def run(row: str, workloads: Sequence[str], device: str, world_size: int, seconds: float) -> dict[str, dict[str, Any]]:
    """What the floor or a target measures on each workload; what it could not do is said under "error"."""
    with tempfile.TemporaryDirectory() as folder:
        context = multiprocessing.spawn(
            _serve, (world_size, row, tuple(workloads), device, folder), nprocs=world_size, join=False, daemon=True
        )
        reason = ""
        try:
            if not context.join(timeout=seconds):
                while context.processes and any(process.is_alive() for process in context.processes):
                    if context.join(timeout=0.1):
                        break
                    reason = f"did not finish within {seconds:.0f} s"
                    break
        except Exception as error:
            reason = str(error).strip().splitlines()[-1]
        for process in context.processes:
            if process.is_alive():
                process.kill()
            process.join()
        return {name: _read(folder, name, reason or "no result") for name in workloads}


def _read(folder: str, name: str, reason: str) -> dict[str, Any]:
    try:
        with open(os.path.join(folder, name)) as file:
            found: dict[str, Any] = json.load(file)
        return found
    except (OSError, ValueError):
        return {"error": reason}


def _serve(rank: int, world_size: int, row: str, workloads: tuple[str, ...], device: str, folder: str) -> None:
    torch.set_num_threads(1)
    place = torch.device(device, rank) if device == "cuda" else torch.device("cpu")
    extra: dict[str, Any] = {}
    if device == "cuda":
        torch.cuda.set_device(place)
        extra["device_id"] = place
    store = dist.FileStore(os.path.join(folder, "store"), world_size)
    backend = "nccl" if device == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, **extra)
    for name in workloads:
        try:
            found = measure.floor(name, place) if row == FLOOR else measure.target(name, row, place)
        except Exception as error:
            traceback.print_exc()
            found = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:200]}
        if device == "cuda":
            torch.cuda.empty_cache()
        if rank == 0:
            path = os.path.join(folder, name)
            with open(f"{path}.part", "w") as file:
                json.dump(found, file)
            os.replace(f"{path}.part", path)
        if "error" in found:
            os._exit(1)  # the other ranks may wait for this one: nothing more can be measured in this world
    dist.barrier()
    dist.destroy_process_group()
