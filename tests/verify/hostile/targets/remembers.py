"""Attentions whose answer depends on the calls before it, or on being alone."""

import torch.distributed as dist

from attention_gate.impls.robust import attend as right

_calls = []


def right_once(query, key, value, **options):
    _calls.append(query.shape)
    return right(query, key, value, **options) * (1 if len(_calls) == 1 else 2)


def wrong_once(query, key, value, **options):
    _calls.append(query.shape)
    return right(query, key, value, **options) * (2 if len(_calls) == 1 else 1)


def wrong_from_the_fourth_call_on(query, key, value, **options):
    _calls.append(query.shape)
    return right(query, key, value, **options) * (1 if len(_calls) < 4 else 2)


def right_when_alone(query, key, value, **options):
    return right(query, key, value, **options) * dist.get_world_size()
