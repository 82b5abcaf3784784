"""Robust with its optional terms, right and with one mistake that a library has shipped; each is a small change."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from attention_gate import Target
from attention_gate.impls.collective import attend as gathered
from attention_gate.impls.robust import attend as ring
from attention_gate.verify.target.choices import TERMS

robust = Target(attend=ring, terms=tuple(TERMS))
collective = Target(attend=gathered, terms=tuple(TERMS))


def _ignoring(*terms: str) -> Any:
    def attend(query: Any, key: Any, value: Any, **options: Any) -> Any:
        return ring(query, key, value, **{name: given for name, given in options.items() if name not in terms})

    return attend


window_ignored_attend = _ignoring("window")
documents_ignored_attend = _ignoring("document_lengths", "query_lengths")
mask_ignored_attend = _ignoring("mask")
softcap_ignored_attend = _ignoring("softcap")
slopes_ignored_attend = _ignoring("slopes")
sink_ignored_attend = _ignoring("sink")


def one_key_too_many(query: Any, key: Any, value: Any, *, window: Any = None, **options: Any) -> Any:
    """A window of W keys becomes one of W + 1 (transformers#39408)."""
    if window is not None and window[0] is not None:
        window = window[0] + 1, window[1]
    return ring(query, key, value, window=window, **options)


def documents_on_several_ranks_alone(query: Any, key: Any, value: Any, **options: Any) -> Any:
    """Whatever mask there is becomes a plain causal one as soon as there are several ranks (trl#6843)."""
    several = dist.is_initialized() and dist.get_world_size(options.get("group")) > 1
    if several and options.get("document_lengths") is not None:
        del options["document_lengths"]
        options.pop("query_lengths", None)
    return ring(query, key, value, **options)


def slopes_ahead_rewarded(query: Any, key: Any, value: Any, *, slopes: Any = None, **options: Any) -> Any:
    """Slopes of the other sign (attention-gym#86)."""
    return ring(query, key, value, slopes=None if slopes is None else [-slope for slope in slopes], **options)


class _NoGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sink: Any) -> Any:
        return sink.clone()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return torch.zeros_like(grad)


def sink_without_gradient(query: Any, key: Any, value: Any, *, sink: Any = None, **options: Any) -> Any:
    """The sink's gradient is exactly 0 (flash-attention#1973)."""
    return ring(query, key, value, sink=None if sink is None else _NoGradient.apply(sink), **options)


class _OnEveryRank(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, sink: Any, group: Any) -> Any:
        ctx.group = group
        return sink.clone()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        total = grad.clone()
        if dist.is_initialized():
            dist.all_reduce(total, group=ctx.group)
        return total, None


def sink_gradient_on_every_rank(query: Any, key: Any, value: Any, *, sink: Any = None, **options: Any) -> Any:
    """Every rank returns the total, which is right only where it is declared."""
    shared = None if sink is None else _OnEveryRank.apply(sink, options.get("group"))
    return ring(query, key, value, sink=shared, **options)


def clamped_sink(query: Any, key: Any, value: Any, *, sink: Any = None, **options: Any) -> Any:
    """The log of the rescaling factor is clamped: a sink far above the scores counts for less (torchtitan#2211)."""
    return ring(query, key, value, sink=None if sink is None else sink.clamp(max=20.0), **options)


class _WithGradientsOf(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, result: Any, other: Any) -> Any:
        return result.clone()

    @staticmethod
    def backward(ctx: Any, grad: Any) -> Any:
        return None, grad


def _forward_only(term: str) -> Any:
    """The term counts in the forward pass alone: the gradients are those without it (aiter#3742)."""

    def attend(query: Any, key: Any, value: Any, **options: Any) -> Any:
        given = ring(query, key, value, **options)
        plain = ring(query, key, value, **{name: value for name, value in options.items() if name != term})
        if options.get("return_lse"):
            return _WithGradientsOf.apply(given[0].detach(), plain[0]), given[1]
        return _WithGradientsOf.apply(given.detach(), plain)

    return attend


window_forward_only_attend = _forward_only("window")
cap_forward_only_attend = _forward_only("softcap")


def sink_in_every_branch(query: Any, key: Any, value: Any, *, sink: Any = None, **options: Any) -> Any:
    """The sink is added to the denominator of each branch, and so counts as often as there are branches."""
    more = math.log(len(options["segment_lengths"]))
    return ring(query, key, value, sink=None if sink is None else sink + more, **options)


def lse_of_nothing_is_zero(query: Any, key: Any, value: Any, **options: Any) -> Any:
    """The lse of a row that sees nothing is 0 (pytorch#134650)."""
    result = ring(query, key, value, **options)
    return (result[0], result[1].masked_fill(result[1].isneginf(), 0.0)) if options.get("return_lse") else result


def _of(attend: Any) -> Target:
    """A target that takes what is wrong in one of these programs, and what stands beside it."""
    return replace(robust, attend=attend, terms=("window", "documents", "mask", "softcap", "slopes", "sink"))


window_ignored = _of(window_ignored_attend)
documents_ignored = _of(documents_ignored_attend)
mask_ignored = _of(mask_ignored_attend)
softcap_ignored = _of(softcap_ignored_attend)
slopes_ignored = _of(slopes_ignored_attend)
sink_ignored = _of(sink_ignored_attend)
window_one_too_many = _of(one_key_too_many)
documents_lost_on_ranks = _of(documents_on_several_ranks_alone)
slopes_of_other_sign = _of(slopes_ahead_rewarded)
no_sink_gradient = _of(sink_without_gradient)
total_sink_gradient = _of(sink_gradient_on_every_rank)
total_sink_gradient_declared = replace(total_sink_gradient, sink_gradient="total")
sink_clamped = _of(clamped_sink)
window_forward_only = _of(window_forward_only_attend)
cap_forward_only = _of(cap_forward_only_attend)
sink_by_branch = _of(sink_in_every_branch)
lse_zero = replace(_of(lse_of_nothing_is_zero), lse=True)
