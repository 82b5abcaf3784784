"""The arguments of a call: refused in words, and on every rank of the group also where only one rank's are bad."""

from __future__ import annotations

import hashlib
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor


class Call(NamedTuple):
    """What a call is to do: the sequence and how it is shared, the branches, the mask and the scale."""

    rank: int
    world_size: int
    group: Any
    length: int
    branches: tuple[tuple[int, int], ...]
    is_causal: bool
    scale: float

    def shard(self, rank: int) -> Tensor:
        """The positions that a rank owns."""
        return torch.arange(self.length).tensor_split(self.world_size)[rank % self.world_size]


def admit(
    query: Any,
    key: Any,
    value: Any,
    segment_lengths: Any,
    dilation_rates: Any,
    is_causal: Any,
    scale: Any,
    sequence_length: Any,
    group: Any,
    unknown: dict[str, Any],
    objection: str | None = None,
    stated: tuple[Any, ...] = (),
) -> Call:
    """The call, once no rank objects to its arguments; ValueError on every rank if any does.

    ``objection`` is this rank's to what else it was given, and ``stated`` what else must be the same on every rank.
    """
    together = dist.is_initialized()
    rank, world_size = (dist.get_rank(group), dist.get_world_size(group)) if together else (0, 1)
    problem = _problem(
        (query, key, value), segment_lengths, dilation_rates, is_causal, scale, sequence_length, rank, world_size
    )
    problem = problem or objection
    if unknown:
        problem = f"unknown options {sorted(unknown)}; the contract has no others"
    asked = None
    if problem is None:
        asked = (
            *(segment_lengths, dilation_rates, is_causal, scale, query.dtype, sequence_length or query.shape[1]),
            *(query.shape[0], *query.shape[2:], *value.shape[2:]),
            *stated,
        )
    statements = [(problem, asked)]
    if world_size > 1:
        statements = gathered((problem, asked), world_size, group)
    problems, everywhere = zip(*statements, strict=True)
    for other, said in enumerate(problems):
        if said is not None:
            raise ValueError(f"rank {other} of the group: {said}")
    if any(other != everywhere[0] for other in everywhere):
        raise ValueError(f"the ranks of the group differ in their arguments: {everywhere}")
    length = query.shape[1] * world_size if sequence_length is None else sequence_length
    branches = tuple(zip(segment_lengths, dilation_rates, strict=True))
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    return Call(rank, world_size, group, length, branches, is_causal, scale)


def gathered(stated: Any, world_size: int, group: Any) -> list[Any]:
    """What each rank of the group states; only digests travel as long as all state the same."""
    device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
    digest = hashlib.blake2b(repr(stated).encode(), digest_size=16).digest()
    mine = torch.tensor(list(digest), dtype=torch.uint8, device=device)
    digests = [torch.empty_like(mine) for _ in range(world_size)]
    dist.all_gather(digests, mine, group=group)
    if all(torch.equal(other, mine) for other in digests):
        return [stated] * world_size
    statements = [None] * world_size
    dist.all_gather_object(statements, stated, group=group)
    return statements


def _problem(
    tensors: tuple[Any, Any, Any],
    lengths: Any,
    rates: Any,
    is_causal: Any,
    scale: Any,
    sequence_length: Any,
    rank: int,
    world_size: int,
) -> str | None:
    """What is wrong with this rank's own arguments, in words; None if nothing is."""
    for name, entries in (("segment_lengths", lengths), ("dilation_rates", rates)):
        if not isinstance(entries, list | tuple) or not entries:
            return f"{name} is {entries!r}; it must be a list of positive integers"
        if any(type(entry) is not int or entry < 1 for entry in entries):
            return f"{name} is {entries}; its entries must be positive integers"
    if len(lengths) != len(rates):
        return f"segment_lengths {lengths} and dilation_rates {rates} must be as many"
    if not isinstance(is_causal, bool):
        return f"is_causal is {is_causal!r}; it must be True or False"
    if scale is not None and (isinstance(scale, bool) or not isinstance(scale, int | float) or not abs(scale) < 1e300):
        return f"scale is {scale!r}; it must be a finite number or None"
    if not all(isinstance(tensor, Tensor) and tensor.dim() == 4 for tensor in tensors):
        return "query, key and value must be tensors of four dimensions"
    query, key, value = tensors
    if not query.is_floating_point() or not query.dtype == key.dtype == value.dtype:
        return f"query, key and value are {query.dtype}, {key.dtype}, {value.dtype}; they must share one floating dtype"
    if key.shape[:3] != value.shape[:3] or query.shape[:2] != key.shape[:2] or query.shape[3] != key.shape[3]:
        return f"the shapes {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)} do not fit each other"
    if query.shape[2] % key.shape[2]:
        return f"query has {query.shape[2]} heads; it must be a multiple of the {key.shape[2]} kv_heads"
    if sequence_length is not None:
        if type(sequence_length) is not int or sequence_length < 0:
            return f"sequence_length is {sequence_length!r}; it must be a non-negative integer"
        owned = len(torch.arange(sequence_length).tensor_split(world_size)[rank])
        if query.shape[1] != owned:
            return f"sequence_length is {sequence_length}, of which rank {rank} owns {owned} rows, not {query.shape[1]}"
    return None


def visible(call: Call, branch: tuple[int, int], heads: int, rows: Tensor, keys: Tensor) -> Tensor:
    """Which keys each head's queries see in a branch, both given by position: bool (heads, rows, keys)."""
    segment, rate = branch
    offset = (torch.arange(heads) % rate)[:, None]
    row_selected = rows % segment % rate == offset
    key_selected = keys % segment % rate == offset
    seen = row_selected[:, :, None] & key_selected[:, None, :]
    seen = seen & ((rows // segment)[:, None] == keys // segment)
    if call.is_causal:
        seen = seen & (keys <= rows[:, None])
    return seen


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype that sums are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def heads_first(tensor: Tensor) -> Tensor:
    """(batch, rows, heads, dim) and (batch, heads, rows, dim) into each other, contiguous."""
    return tensor.transpose(1, 2).contiguous()
