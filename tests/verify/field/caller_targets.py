"""Attentions that are right when they are called as is, and wrong when they are called as trainers do."""

from __future__ import annotations

import threading

import torch

import impls.collective
from attention_gate import Target

_seen: set[torch.Size] = set()
_local = threading.local()


def saves_more_the_first_time(query, key, value, **options):
    """The first call of a shape saves another tensor than its recomputation does."""
    if query.shape not in _seen:
        _seen.add(query.shape)
        query = query * torch.ones_like(query)
    return impls.collective.attend(query, key, value, **options)


class _Halved(torch.autograd.Function):
    """The identity, whose gradient is halved by every backward pass after the first one."""

    @staticmethod
    def forward(ctx, tensor):
        ctx.factor = 2.0
        return tensor.clone()

    @staticmethod
    def backward(ctx, grad):
        ctx.factor /= 2.0
        return grad * ctx.factor


def right_in_its_first_backward_pass(query, key, value, **options):
    """A second pass through the graph gives half of the gradients."""
    return _Halved.apply(impls.collective.attend(query, key, value, **options))


def not_causal_without_gradients(query, key, value, *, is_causal=False, **options):
    """Under no_grad another kernel is called, which has no mask."""
    return impls.collective.attend(query, key, value, is_causal=is_causal and torch.is_grad_enabled(), **options)


def remembers_by_thread(query, key, value, **options):
    """What was set up in the thread that imported it is not there in another one."""
    return impls.collective.attend(query * _local.factor, key, value, **options)


_local.factor = 1.0


def rounds_under_autocast(query, key, value, **options):
    """Under autocast the scores are taken of keys that have lost all but two digits."""
    if torch.is_autocast_enabled("cpu"):
        key = key + (torch.round(key * 4) / 4 - key).detach()
    return impls.collective.attend(query, key, value, **options)


#: Each, and what the report has to say of it.
TARGETS = {
    "checkpointed": (Target(attend=saves_more_the_first_time), "called inside activation checkpointing: "),
    "second_pass": (Target(attend=right_in_its_first_backward_pass), "called with its graph gone through twice: "),
    "no_grad": (Target(attend=not_causal_without_gradients), "called under no_grad: "),
    "threads": (Target(attend=remembers_by_thread), "called from another thread: "),
    "autocast": (Target(attend=rounds_under_autocast), "called under autocast: "),
}
globals().update({name: target for name, (target, _) in TARGETS.items()})
WORDS = {name: words for name, (_, words) in TARGETS.items()}
