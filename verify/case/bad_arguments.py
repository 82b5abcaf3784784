"""Arguments that an implementation has to refuse, each a small change to good ones.

Most are also given to one rank alone: its peers wait for it, or wait in vain. A plain program meets that in its first
lines: each rank looks at its own arguments, all exchange what they found (`all_gather_object` of a message, or None),
and then all raise or none does. What Python itself refuses, before the first line is reached, is given to every rank.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class BadArgument:
    """A mistake a caller can make: what it is in words, and how it turns good arguments into bad ones.

    ``differs``: the arguments are bad only because the other ranks' are others; on every rank they would be good.
    ``unbound``: Python raises while it binds the arguments to a plain signature, so that nothing inside the function
    could tell the other ranks; it is given to all of them together.
    """

    words: str
    spoil: Callable[[dict[str, Any]], dict[str, Any]]
    differs: bool = False
    unbound: bool = False


def _with(**changes: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda arguments: arguments | {name: change(arguments) for name, change in changes.items()}


BAD_ARGUMENTS: dict[str, BadArgument] = {
    "segment-zero": BadArgument(
        "a segment length of 0", _with(segment_lengths=lambda a: [0, *a["segment_lengths"][1:]])
    ),
    "segment-bool": BadArgument(
        "True as a segment length", _with(segment_lengths=lambda a: [True, *a["segment_lengths"][1:]])
    ),
    "segment-float": BadArgument(
        "a float as a segment length after good ones",
        _with(
            segment_lengths=lambda a: [*a["segment_lengths"], 2.5],
            dilation_rates=lambda a: [*a["dilation_rates"], 1],
        ),
    ),
    "rate-negative": BadArgument(
        "a dilation rate of -1", _with(dilation_rates=lambda a: [-1, *a["dilation_rates"][1:]])
    ),
    "counts-differ": BadArgument(
        "one segment length more than dilation rates", _with(segment_lengths=lambda a: [*a["segment_lengths"], 3])
    ),
    "no-branches": BadArgument("no branches at all", _with(segment_lengths=lambda a: [], dilation_rates=lambda a: [])),
    "query-dim": BadArgument(
        "a query whose head_dim is not the key's", _with(query=lambda a: torch.cat([a["query"], a["query"]], dim=-1))
    ),
    "key-rank": BadArgument("a key of three dimensions", _with(key=lambda a: a["key"][0])),
    "key-rows": BadArgument(
        "a key of one row more than the query", _with(key=lambda a: torch.cat([a["key"], _row(a["key"])], dim=1))
    ),
    "value-batch": BadArgument(
        "a value of another batch size", _with(value=lambda a: torch.cat([a["value"], a["value"]], dim=0))
    ),
    "value-heads": BadArgument(
        "a value of another number of heads than the key",
        _with(value=lambda a: torch.cat([a["value"], a["value"]], dim=2)),
    ),
    "heads": BadArgument(
        "heads that are not a multiple of kv_heads",
        _with(key=lambda a: _heads(a["key"], a), value=lambda a: _heads(a["value"], a)),
    ),
    "value-dtype": BadArgument(
        "a value of another dtype",
        _with(value=lambda a: _other_dtype(a["value"])),
    ),
    "integer-dtype": BadArgument(
        "integer tensors",
        _with(
            query=lambda a: a["query"].detach().long(),
            key=lambda a: a["key"].detach().long(),
            value=lambda a: a["value"].detach().long(),
        ),
    ),
    "not-a-tensor": BadArgument("a list as the query", _with(query=lambda a: a["query"].detach().tolist())),
    "length-too-long": BadArgument(
        "a sequence_length that the shards do not add up to",
        _with(sequence_length=lambda a: 1000 + (a["sequence_length"] or 0)),
    ),
    "length-float": BadArgument(
        "a float as the sequence_length",
        # Rounded up it is the length, or that of one rank: what only counts rows finds nothing wrong.
        _with(sequence_length=lambda a: (a["sequence_length"] or a["query"].shape[1]) - 0.5),
    ),
    "length-negative": BadArgument("a negative sequence_length", _with(sequence_length=lambda a: -1)),
    "lengths-number": BadArgument(
        "a single number instead of a list as segment_lengths", _with(segment_lengths=lambda a: 4)
    ),
    "scale-text": BadArgument("a string as the scale", _with(scale=lambda a: "0.5")),
    "causal-text": BadArgument(
        "a string as is_causal (any non-empty string would count as true)", _with(is_causal=lambda a: "no")
    ),
    "unknown-window": BadArgument(
        "an unknown option (window_size=2), for which it must raise",
        _with(window_size=lambda a: 2),
        unbound=True,
    ),
    "unknown-option": BadArgument(
        "an unknown option (dropout_p=0.5), for which it must raise",
        _with(dropout_p=lambda a: 0.5),
        unbound=True,
    ),
    "differs-segment": BadArgument(
        "a segment length that differs from the other ranks'",
        _with(segment_lengths=lambda a: [a["segment_lengths"][0] + 1, *a["segment_lengths"][1:]]),
        differs=True,
    ),
    "differs-rate": BadArgument(
        "a dilation rate that differs from the other ranks'",
        _with(dilation_rates=lambda a: [*a["dilation_rates"][:-1], a["dilation_rates"][-1] + 1]),
        differs=True,
    ),
    "differs-causal": BadArgument(
        "an is_causal that differs from the other ranks'", _with(is_causal=lambda a: not a["is_causal"]), differs=True
    ),
    "differs-scale": BadArgument(
        "a scale that differs from the other ranks'", _with(scale=lambda a: (a["scale"] or 0.25) + 0.0625), differs=True
    ),
    "differs-dtype": BadArgument(
        "query, key and value of a dtype that differs from the other ranks'",
        _with(**{name: lambda a, name=name: _other_dtype(a[name]) for name in ("query", "key", "value")}),
        differs=True,
    ),
    "differs-batch": BadArgument(
        "query, key and value of a batch size that differs from the other ranks'",
        _with(**{name: lambda a, name=name: torch.cat([a[name]] * 2, dim=0) for name in ("query", "key", "value")}),
        differs=True,
    ),
    "differs-kv-heads": BadArgument(
        "a number of kv_heads that differs from the other ranks'",
        _with(key=lambda a: _other_kv_heads(a["key"], a), value=lambda a: _other_kv_heads(a["value"], a)),
        differs=True,
    ),
    "differs-value-dim": BadArgument(
        "a value_dim that differs from the other ranks'",
        _with(value=lambda a: torch.cat([a["value"], a["value"]], dim=3)),
        differs=True,
    ),
    "differs-heads": BadArgument(
        "a number of query heads that differs from the other ranks'",
        _with(query=lambda a: torch.cat([a["query"], a["query"]], dim=2)),
        differs=True,
    ),
}


def _other_dtype(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32 if tensor.dtype != torch.float32 else torch.float64)


def _row(tensor: torch.Tensor) -> torch.Tensor:
    return torch.ones_like(tensor[:, :1]) if tensor.shape[1] else tensor.new_ones(tensor.shape[0], 1, *tensor.shape[2:])


def _heads(tensor: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """The tensor with one head more than the query has, which divides nothing."""
    wanted = arguments["query"].shape[2] + 1
    return tensor[:, :, :1].expand(tensor.shape[0], tensor.shape[1], wanted, tensor.shape[3])


def _other_kv_heads(tensor: torch.Tensor, arguments: dict[str, Any]) -> torch.Tensor:
    """The tensor with another number of kv_heads that divides the query's heads, of which there are several."""
    return tensor[:, :, :1] if tensor.shape[2] > 1 else tensor.repeat_interleave(arguments["query"].shape[2], dim=2)
