"""Attentions that are right and leave something behind: output, threads, processes, memory."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time

import torch

from attention_gate.impls.robust import attend as right

_kept = []


def output(query, key, value, **options):
    if not _kept:
        _kept.append(True)
        for _ in range(100):
            print("x" * 1_000_000)
    os.write(1, b"straight to the descriptor\n")
    os.write(2, b"\xff\xfe\x00")
    return right(query, key, value, **options)


def closed_output(query, key, value, **options):
    for descriptor in (0, 1, 2):
        with contextlib.suppress(OSError):
            os.close(descriptor)
    return right(query, key, value, **options)


def output_that_is_closed(query, key, value, **options):
    os.close(1)
    print("nobody hears this", flush=True)
    return right(query, key, value, **options)


def threads(query, key, value, **options):
    threading.Thread(target=time.sleep, args=(1000,)).start()
    return right(query, key, value, **options)


def children(query, key, value, **options):
    _kept.append(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"]))
    if os.fork() == 0:
        signal.pause()
    return right(query, key, value, **options)


def daemons(query, key, value, **options):
    """Processes in sessions of their own, whose parent has gone and whose environment is empty."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execve("/bin/sleep", ["sleep", "1000"], {})
        os._exit(0)
    return right(query, key, value, **options)


def memory(query, key, value, **options):
    _kept.append(torch.ones(50 << 18))  # 50 MiB
    return right(query, key, value, **options)
