"""Robust as other libraries mean its optional terms: right where that is declared, and wrong where it is not."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any

import torch
import torch.distributed as dist

from attention_gate import Target
from attention_gate.impls.robust import attend as ring
from tests.verify.terms.targets import _OnEveryRank


def without_the_sink(query: Any, key: Any, value: Any, **options: Any) -> Any:
    """The lse is that of the keys alone, as of a kernel after which the sink is applied."""
    result = ring(query, key, value, **options)
    if not options.get("return_lse"):
        return result
    options.pop("sink", None)
    return result[0], ring(query, key, value, **options)[1]


def by_key_position(query: Any, key: Any, value: Any, **options: Any) -> Any:
    """Under a causal mask slopes are added times the key's position in its document."""
    result = ring(query, key, value, **options)
    slopes = options.get("slopes")
    if not options.get("return_lse") or slopes is None or not options["is_causal"]:
        return result
    world_size, rank = 1, 0
    if dist.is_initialized():
        world_size, rank = dist.get_world_size(options["group"]), dist.get_rank(options["group"])
    keys = options["sequence_length"]
    keys = key.shape[1] * world_size if keys is None else keys
    queries = options.get("query_length", keys)
    documents = options.get("document_lengths", [keys])
    of_queries = options.get("query_lengths", documents if "document_lengths" in options else [queries])
    places = torch.zeros(queries, dtype=torch.float64)
    starts = itertools.accumulate(of_queries, initial=0)
    for first, q, k in zip(starts, of_queries, documents, strict=False):
        places[first : first + q] = k - q + torch.arange(q)
    own = places.tensor_split(world_size)[rank]
    return result[0], result[1] + torch.tensor(slopes, dtype=result[1].dtype)[:, None] * own


def keys_of_the_window(query: Any, key: Any, value: Any, *, window: Any = None, **options: Any) -> Any:
    """A window's bounds count keys, the own one included."""
    if window is not None:
        window = tuple(None if bound is None else bound - 1 for bound in window)
    return ring(query, key, value, window=window, **options)


def joint_totals(query: Any, key: Any, value: Any, **options: Any) -> Any:
    """Every rank returns the whole gradient of the rows that every rank has."""
    for name in ("joint_key", "joint_value"):
        if name in options:
            options[name] = _OnEveryRank.apply(options[name], options["group"])
    return ring(query, key, value, **options)


SINK = Target(attend=without_the_sink, terms=("sink",), lse=True, refusals=False)
SLOPES = Target(attend=by_key_position, terms=("slopes", "queries", "documents"), lse=True, refusals=False)
WINDOW = Target(attend=keys_of_the_window, terms=("window",), lse=True, refusals=False)
JOINT = Target(attend=joint_totals, terms=("joint",), lse=True, refusals=False)

sink_undeclared, sink_declared = SINK, replace(SINK, lse_sink="left-out")
slopes_undeclared, slopes_declared = SLOPES, replace(SLOPES, lse_slopes="key-position")
window_undeclared, window_declared = WINDOW, replace(WINDOW, window_counts="keys")
joint_undeclared, joint_declared = JOINT, replace(JOINT, joint_gradient="total")
