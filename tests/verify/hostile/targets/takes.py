"""Attentions that take all the memory there is."""

import torch

_kept = []


def all_memory(query, key, value, **options):
    while True:
        _kept.append(torch.ones(16 << 18))  # 16 MiB


def all_memory_of_python(query, key, value, **options):
    while True:
        _kept.append(bytearray(16 << 20))


def too_much_at_once(query, key, value, **options):
    return torch.empty(1 << 50)
