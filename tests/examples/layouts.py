"""The layouts of examples/layouts_target.py with a mistake each, and one whose attention sums gradients itself."""

from __future__ import annotations

import sys
from pathlib import Path

import torch
import torch.distributed as dist

import attention_gate

sys.path.insert(0, str(Path(__file__).parents[2] / "examples"))

import layouts_target as right


def heads_viewed_as_rows(query, key, value, *, is_causal, scale, sequence_length, group, **_):
    """The library views its result as (batch, heads, rows, dim) where it had to transpose it."""
    heads_first = (tensor.transpose(1, 2) for tensor in (query, key, value))
    out = right.ring_heads_first(*heads_first, is_causal, scale, sequence_length, group)
    return out.transpose(1, 2).reshape(out.shape).transpose(1, 2)


def key_and_value_swapped(query, key, value, *, is_causal, scale, sequence_length, group, **_):
    return right.ring_packed(torch.stack((query, value, key), dim=2), is_causal, scale, sequence_length, group)


def sequences_run_together(query, key, value, *, is_causal, scale, group, **_):
    """The boundaries between the packed sequences are not looked at."""
    tokens = [tensor.flatten(0, 1) for tensor in (query, key, value)]
    out = right.ring_tokens(*tokens, [0, len(tokens[0])], is_causal, scale, None, group)
    return out.unflatten(0, query.shape[:2])


def gradients_not_summed(query, key, value, *, is_causal, scale, sequence_length, group, **_):
    whole = attention_gate.gather_rows(
        query, key, value, sequence_length=sequence_length, group=group, sum_gradients=False
    )
    return attention_gate.own_rows(right.replicated_attention(*whole, is_causal, scale), group=group)


class Replicated(torch.autograd.Function):
    """Passes replicated tensors on; the gradients are summed over the ranks."""

    @staticmethod
    def forward(ctx, group, *tensors):
        ctx.group = group
        return tuple(tensor.view_as(tensor) for tensor in tensors)

    @staticmethod
    def backward(ctx, *grads):
        grads = [grad.clone(memory_format=torch.contiguous_format) for grad in grads]
        for grad in grads:
            dist.all_reduce(grad, group=ctx.group)
        return None, *grads


def summed_by_the_library(query, key, value, *, is_causal, scale, sequence_length, group, **_):
    whole = attention_gate.gather_rows(
        query, key, value, sequence_length=sequence_length, group=group, sum_gradients=False
    )
    if dist.is_initialized():
        whole = Replicated.apply(group, *whole)
    return attention_gate.own_rows(right.replicated_attention(*whole, is_causal, scale), group=group)


def summed_twice(query, key, value, *, is_causal, scale, sequence_length, group, **_):
    whole = attention_gate.gather_rows(query, key, value, sequence_length=sequence_length, group=group)
    if dist.is_initialized():
        whole = Replicated.apply(group, *whole)
    return attention_gate.own_rows(right.replicated_attention(*whole, is_causal, scale), group=group)


DENSE = {"branches": "dense", "refusals": False}
heads_first = attention_gate.Target(attend=heads_viewed_as_rows, **DENSE)
packed = attention_gate.Target(attend=key_and_value_swapped, **DENSE, grouped_query=False, value_dim=False)
tokens = attention_gate.Target(attend=sequences_run_together, **DENSE, uneven=False)
replicated = attention_gate.Target(attend=gradients_not_summed, **DENSE, replicated=True)
library_sums = attention_gate.Target(attend=summed_by_the_library, **DENSE, replicated=True)
both_sum = attention_gate.Target(attend=summed_twice, **DENSE, replicated=True)
