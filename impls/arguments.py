"""The arguments of a call: what is allowed, and what of them all ranks must share. No communication."""

import math
import numbers
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from attention_gate.impls.given_values import integer, shown
from attention_gate.impls.optional_terms import Checked, Terms, check_terms, stated
from attention_gate.impls.tiling import Layout, bounded_branches

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYOUTS = ("contiguous", "zigzag", "document-zigzag")
_DIMENSIONS = {
    "query": "(batch, local_length, heads, head_dim)",
    "key": "(batch, local_length, kv_heads, head_dim)",
    "value": "(batch, local_length, kv_heads, value_dim)",
}


class Arguments(NamedTuple):
    """The arguments of one call as they were given, right or wrong, but for the group."""

    query: Any
    key: Any
    value: Any
    segment_lengths: Any
    dilation_rates: Any
    is_causal: Any
    scale: Any
    sequence_length: Any
    return_lse: Any
    layout: Any
    unknown: dict[str, object]
    terms: Terms = Terms()


def split(options: dict[str, object]) -> tuple[dict[str, object], Terms]:
    """Return what is no optional term, which must be nothing, and the optional terms."""
    known = {name: value for name, value in options.items() if name in Terms._fields}
    return {name: value for name, value in options.items() if name not in known}, Terms(**known)


def check_branches(
    segment_lengths: Sequence[int], dilation_rates: Sequence[int]
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return both as tuples of int, or raise TypeError or ValueError with the argument, its value and the rule."""
    lengths = _positive_integers("segment_lengths", segment_lengths)
    rates = _positive_integers("dilation_rates", dilation_rates)
    if len(lengths) != len(rates):
        raise ValueError(
            f"segment_lengths {lengths} and dilation_rates {rates}: there must be as many of one as of the other"
        )
    return lengths, rates


def check_scale(scale: float | None) -> float | None:
    """Return the scale as a float or None, or raise TypeError or ValueError."""
    if scale is None:
        return None
    if isinstance(scale, bool) or not isinstance(scale, numbers.Real):
        raise TypeError(f"scale: {shown(scale)} is not a real number or None")
    try:
        number = float(scale)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ValueError(f"scale: {shown(scale)} is not finite")
    return number


def check_sequence_length(sequence_length: int | None) -> int | None:
    """Return the sequence length as an int or None, or raise TypeError or ValueError."""
    return None if sequence_length is None else _rows("sequence_length", sequence_length)


def _rows(name: str, rows: Any) -> int:
    length = integer(name, rows)
    if length < 0:
        raise ValueError(f"{name}: {length} is negative; it counts the rows of all ranks")
    return length


def check_layout(layout: str) -> str:
    """Return the layout, or raise TypeError or ValueError."""
    if not isinstance(layout, str):
        raise TypeError(f"layout: {shown(layout)} is not a text")
    if layout not in LAYOUTS:
        raise ValueError(f"layout: {shown(layout)} is not one of {', '.join(map(repr, LAYOUTS))}")
    return layout


def check(arguments: Arguments, rank: int, world_size: int) -> tuple[Layout, float, Checked, dict[str, object]]:
    """Return the layout, the scale and the optional terms, and what of the arguments all ranks must share.

    Raises TypeError or ValueError, naming the argument, its value and what is allowed.
    """
    if arguments.unknown:
        raise TypeError(f"unknown argument {', '.join(map(repr, arguments.unknown))}: there is no such option")
    lengths, rates = check_branches(arguments.segment_lengths, arguments.dilation_rates)
    is_causal = _flag("is_causal", arguments.is_causal)
    _flag("return_lse", arguments.return_lse)
    shards = check_layout(arguments.layout)
    scale, sequence_length = check_scale(arguments.scale), check_sequence_length(arguments.sequence_length)
    tensors = {"query": arguments.query, "key": arguments.key, "value": arguments.value}
    _check_kinds(tensors)
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    terms = arguments.terms
    _check_shapes(shapes, terms.query_length is not None)
    batch, local_queries, heads, head_dim = shapes["query"]
    local_length, kv_heads, value_dim = shapes["value"][1:]
    total = local_length * world_size if sequence_length is None else sequence_length
    queries = total if terms.query_length is None else _rows("query_length", terms.query_length)
    branches = bounded_branches(lengths, rates, total, heads)
    layout = Layout(total, world_size, rank, heads, kv_heads, branches, is_causal)
    checked = check_terms(terms, queries, total, arguments.query, arguments.value, layout.is_dense)
    layout = replace(
        layout,
        query_length=None if terms.query_length is None else queries,
        joint_length=0 if checked.joint is None else checked.joint[0].shape[1],
        joint_first=checked.joint_first,
        documents=checked.documents,
        window=checked.window,
        mask=checked.mask,
        by_document=shards == "document-zigzag",
    )
    if layout.by_document and layout.documents is None:
        raise ValueError(f"layout: {shards} shares each document by itself, and document_lengths are not given")
    for name in ("query_length", "query_lengths", "joint_key"):
        if shards != "contiguous" and getattr(terms, name) is not None:
            raise ValueError(f"layout: {shards} takes as many queries as keys, and {name} is given")
    owned = sum(map(len, layout.zigzag(rank) if shards == "zigzag" else layout.parts(rank)))
    if local_length != owned:
        raise ValueError(
            f"sequence_length: of {total} rows rank {rank} of {world_size} owns {owned}; "
            f"query, key and value have {local_length}"
        )
    if terms.query_length is not None and local_queries != len(layout.query_shard(rank)):
        raise ValueError(
            f"query_length: of {queries} rows rank {rank} of {world_size} owns {len(layout.query_shard(rank))}; "
            f"query has {local_queries}"
        )
    signature = {
        "sequence_length": total,
        "batch": batch,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "value_dim": value_dim,
        "dtype": str(arguments.query.dtype),
        "device": arguments.query.device.type,
        "segment_lengths": lengths,
        "dilation_rates": rates,
        "is_causal": is_causal,
        "layout": shards,
        "scale": scale,
        "requires_grad": [name for name, tensor in tensors.items() if torch.is_grad_enabled() and tensor.requires_grad],
    }
    if terms.given:
        signature |= {"query_length": queries, **stated(checked)}
    return layout, 1 / math.sqrt(head_dim) if scale is None else scale, checked, signature


def _check_kinds(tensors: dict[str, Any]) -> None:
    """Raise unless all are tensors of the right number of dimensions, of one floating dtype and on one device."""
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: {shown(tensor)} is not a torch.Tensor")
        if tensor.ndim != 4:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)} is not {_DIMENSIONS[name]}")
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name}: dtype {tensor.dtype} is not one of {', '.join(map(str, _DTYPES))}")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name}: layout {tensor.layout} is not torch.strided")
    for what in ("dtype", "device"):
        kinds = {name: getattr(tensor, what) for name, tensor in tensors.items()}
        if len(set(kinds.values())) > 1:
            raise ValueError(f"{what}: {_listed(kinds)}; query, key and value must share one {what}")


def _check_shapes(shapes: dict[str, tuple[int, ...]], queries_differ: bool) -> None:
    """Raise unless the shapes fit each other; queries may be fewer or more than keys where their number is given."""
    query, key, value = shapes.values()
    for dimension, meaning in enumerate(("batch", "local_length")):
        if queries_differ and meaning == "local_length":
            if key[dimension] != value[dimension]:
                raise ValueError(f"{meaning}: key {key} and value {value} must be the same in dimension {dimension}")
        elif not query[dimension] == key[dimension] == value[dimension]:
            raise ValueError(f"{meaning}: {_listed(shapes)} must be the same in dimension {dimension}")
    if key[2] != value[2]:
        raise ValueError(f"kv_heads: key {key} and value {value} must be the same in dimension 2")
    if query[2] == 0 or key[2] == 0 or query[2] % key[2]:
        raise ValueError(f"heads: {query[2]} of query must be a positive multiple of the {key[2]} kv_heads of key")
    if query[3] != key[3] or query[3] == 0:
        raise ValueError(f"head_dim: query {query} and key {key} must be the same in dimension 3, and not 0")


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name}: {shown(value)} is not True or False")
    return value


def _positive_integers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if isinstance(values, str | bytes) or not isinstance(values, Sequence):
        raise TypeError(f"{name}: {shown(values)} is not a list or tuple of positive integers")
    integers = tuple(integer(name, value) for value in values)
    if not integers or min(integers) < 1:
        raise ValueError(f"{name}: {shown(values)} must hold positive integers, at least one")
    return integers


def _listed(values: dict[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items())
