"""Attentions that never return, each in another way."""

import os
import re
import signal
import threading
import time

import torch
import torch.distributed as dist

from attention_gate.impls.robust import attend as right


def loops(query, key, value, **options):
    while True:
        pass


def loops_in_c(query, key, value, **options):
    re.match("(a+)+$", "a" * 64 + "b")  # takes longer than the universe has, in C and with the interpreter's lock held


def loops_beside_a_daemon(query, key, value, **options):
    """The daemon is in a session of its own, and its parent has gone."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            signal.pause()
        os._exit(0)
    while True:
        pass


def sleeps(query, key, value, **options):
    time.sleep(1000)


def polls(query, key, value, **options):
    while True:
        time.sleep(0.01)


def stops_itself(query, key, value, **options):
    os.kill(os.getpid(), signal.SIGSTOP)


def waits_for_a_lock(query, key, value, **options):
    lock = threading.Lock()
    lock.acquire()
    lock.acquire()


def last_rank_waits_for_nobody(query, key, value, **options):
    if dist.get_rank() == dist.get_world_size() - 1:
        dist.recv(torch.empty(1), src=0)
    return right(query, key, value, **options)
