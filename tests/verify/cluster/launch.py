"""Launches several torchrun nodes on this machine, each of some processes, and waits for all of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Node:
    """How one node ended, and what its processes printed."""

    status: int
    output: str


def launch(*arguments: str, nodes: int = 2, processes: int = 2, seconds: float = 240.0) -> list[Node]:
    """``torchrun --nnodes … -m verify ARGUMENTS``; fails if a node is not back in time."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--nnodes={nodes}", f"--nproc-per-node={processes}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "default"}
    running = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                *options,
                f"--node-rank={node}",
                "-m",
                "verify",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=_ROOT,
            env=environment,
        )
        for node in range(nodes)
    ]
    try:
        return [Node(*_end(process, seconds)) for process in running]
    finally:
        for process in running:
            process.kill()
            process.wait()


def _end(process: subprocess.Popen[str], seconds: float) -> tuple[int, str]:
    output, _ = process.communicate(timeout=seconds)
    return process.returncode, output
