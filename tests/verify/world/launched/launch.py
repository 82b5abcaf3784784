"""Launches several torchrun nodes on this machine, each of some processes, and waits for all of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_ROOT = Path(__file__).parents[4]


@dataclass(frozen=True)
class Node:
    """How one node ended, and what its processes printed."""

    status: int
    output: str


def launch(
    *arguments: str, nodes: int = 2, processes: int = 2, seconds: float = 240.0, late: Path | None = None
) -> list[Node]:
    """``torchrun --nnodes … -m attention_gate ARGUMENTS``; fails if a node is not back in time.

    Processes of the last node import modules from the folder `late` first, if one is given.
    """
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
                "attention_gate",
                *arguments,
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=_ROOT,
            env=environment | ({"PYTHONPATH": str(late)} if late and node == nodes - 1 else {}),
        )
        for node in range(nodes)
    ]
    ended: list[Node] = []
    try:
        for process in running:
            output, _ = process.communicate(timeout=seconds)
            ended.append(Node(process.returncode, output))
    except subprocess.TimeoutExpired:
        left = running[len(ended) :]
        for process in left:
            process.terminate()  # torchrun ends its processes then, within half a minute
        printed = [process.communicate(timeout=60.0)[0] for process in left]
        ended += [Node(process.returncode, text) for process, text in zip(left, printed, strict=True)]
        raise AssertionError(f"{len(left)} of {nodes} nodes did not end within {seconds:.0f} s: {ended}") from None
    finally:
        for process in running:
            process.kill()
            process.wait()
    return ended
