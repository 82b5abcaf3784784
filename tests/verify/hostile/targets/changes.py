"""Attentions that are right and change the process that they run in."""

import os
import random
import signal
import tempfile

import torch
import torch.distributed as dist

from attention_gate.impls.robust import attend as right


def folder(query, key, value, **options):
    os.chdir(tempfile.gettempdir() if os.getcwd() == "/" else "/")
    return right(query, key, value, **options)


def environment(query, key, value, **options):
    os.environ["PATH"] = "/nowhere"
    return right(query, key, value, **options)


def default_dtype(query, key, value, **options):
    torch.set_default_dtype(torch.bfloat16)
    return right(query, key, value, **options)


def seeds(query, key, value, **options):
    torch.manual_seed(12345)
    random.seed(0)
    return right(query, key, value, **options)


def threads(query, key, value, **options):
    torch.set_num_threads(3)
    return right(query, key, value, **options)


def grad_mode(query, key, value, **options):
    out = right(query, key, value, **options)
    torch.set_grad_enabled(False)
    return out


def signal_handlers(query, key, value, **options):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)
    return right(query, key, value, **options)


def inference_mode(query, key, value, **options):
    """What cannot be put right: the processes are replaced."""
    out = right(query, key, value, **options)
    torch.inference_mode().__enter__()
    return out


def groups(query, key, value, **options):
    """Right, and allowed: a new group in each call of the whole world."""
    if options.get("group") is None and dist.get_world_size() > 1:
        dist.new_group(list(range(dist.get_world_size())))
    return right(query, key, value, **options)
