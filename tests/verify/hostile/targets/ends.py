"""Attentions that end their process, each in another way."""

import contextlib
import ctypes
import os
import signal
import socket
import sys

import torch.distributed as dist

from attention_gate.impls.robust import attend as right


def exits(query, key, value, **options):
    print("on my way out")
    os._exit(0)


def exits_politely(query, key, value, **options):
    sys.exit(0)


def is_killed(query, key, value, **options):
    os.kill(os.getpid(), signal.SIGKILL)


def reads_address_zero(query, key, value, **options):
    ctypes.string_at(0)


def aborts(query, key, value, **options):
    os.abort()


def last_rank_exits(query, key, value, **options):
    if dist.get_rank() == dist.get_world_size() - 1:
        os._exit(3)
    return right(query, key, value, **options)


def exits_and_leaves_a_child(query, key, value, **options):
    """The child keeps every descriptor open, the harness's own among them."""
    if os.fork() == 0:
        signal.pause()
    os._exit(4)


def closes_all_descriptors(query, key, value, **options):
    os.closerange(0, 4096)
    return query


def closes_its_channel(query, key, value, **options):
    """Closes the sockets by which processes of one machine talk, as gloo's are of another kind."""
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            if socket.socket(fileno=os.dup(descriptor)).family == socket.AF_UNIX:
                os.close(descriptor)
    return right(query, key, value, **options)


def writes_to_all_descriptors(query, key, value, **options):
    for descriptor in range(3, 64):
        with contextlib.suppress(OSError):
            os.write(descriptor, b"nonsense" * 8)
    return right(query, key, value, **options)


def kills_its_parent(query, key, value, **options):
    os.kill(os.getppid(), signal.SIGKILL)
    signal.pause()


def destroys_the_process_group(query, key, value, **options):
    out = right(query, key, value, **options)
    dist.destroy_process_group()
    return out
