"""Arguments are checked on every rank, and refused on every rank: no rank is left waiting for one that raised."""

import hashlib
import json
import math
import numbers
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from impls.exchange import gather_bytes
from impls.plan import Layout, bounded_branches

_DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
_DIMENSIONS = {
    "query": "(batch, local_length, heads, head_dim)",
    "key": "(batch, local_length, kv_heads, head_dim)",
    "value": "(batch, local_length, kv_heads, value_dim)",
}
_KINDS: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError}

# On accelerators, what each group has agreed upon already: asking again would make the host wait for the device.
_agreed: WeakKeyDictionary[dist.ProcessGroup, set[bytes]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Call:
    """The arguments of one call other than tensors, checked, and agreed upon by all ranks."""

    layout: Layout
    scale: float
    group: dist.ProcessGroup | None


def admit(
    operator_name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    *,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    is_causal: bool,
    scale: float | None,
    sequence_length: int | None,
    group: dist.ProcessGroup | None,
    return_lse: bool,
    unknown: dict[str, object],
) -> Call:
    """Return the checked call, or raise the same kind of error on every rank of the group.

    Raises TypeError or ValueError, naming the argument, its value and what is allowed; a rank whose own arguments are
    sound learns which rank objected and why. On CPU every call is checked; on accelerators each signature once.
    """
    rank, world_size, objection = _position(group)
    member_group = group if objection is None else None
    call: Call | None = None
    signature: dict[str, object] = {}
    if objection is None:
        try:
            if unknown:
                raise TypeError(f"unknown argument {', '.join(map(repr, unknown))}: {operator_name} has no such option")
            call, signature = _check(
                rank,
                world_size,
                query,
                key,
                value,
                segment_lengths,
                dilation_rates,
                is_causal,
                scale,
                sequence_length,
                member_group,
                return_lse,
            )
            signature["implementation"] = operator_name
        except (TypeError, ValueError) as error:
            objection = error
    if world_size > 1:
        _agree(signature, objection, rank, member_group)
    if objection is not None:
        raise objection
    assert call is not None
    return call


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
        raise TypeError(f"scale: {_shown(scale)} is not a real number or None")
    if not math.isfinite(scale):
        raise ValueError(f"scale: {scale} is not finite")
    return float(scale)


def check_sequence_length(sequence_length: int | None) -> int | None:
    """Return the sequence length as an int or None, or raise TypeError or ValueError."""
    if sequence_length is None:
        return None
    length = _integer("sequence_length", sequence_length)
    if length < 0:
        raise ValueError(f"sequence_length: {length} is negative; it counts the rows of all ranks")
    return length


def _position(group: dist.ProcessGroup | None) -> tuple[int, int, Exception | None]:
    """Return this process's rank, the world size, and an objection to the group itself.

    A group that is none cannot carry the objection to its members; it travels over the default group instead.
    """
    ready = dist.is_available() and dist.is_initialized()
    if isinstance(group, int) and group == dist.GroupMember.NON_GROUP_MEMBER:
        raise ValueError("group: this process is not a member of the group")
    objection = None
    if group is not None and not (ready and isinstance(group, dist.ProcessGroup)):
        objection = TypeError(f"group: {_shown(group)} is not a process group of torch.distributed or None")
        group = None
    if not ready:
        return 0, 1, objection
    rank = dist.get_rank(group)
    if rank < 0:
        raise ValueError("group: this process is not a member of the group")
    return rank, dist.get_world_size(group), objection


def _check(
    rank: int,
    world_size: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    segment_lengths: Sequence[int],
    dilation_rates: Sequence[int],
    is_causal: bool,
    scale: float | None,
    sequence_length: int | None,
    group: dist.ProcessGroup | None,
    return_lse: bool,
) -> tuple[Call, dict[str, object]]:
    """Return the call as this rank sees it, and what of it must be the same on every rank."""
    lengths, rates = check_branches(segment_lengths, dilation_rates)
    for name, flag in (("is_causal", is_causal), ("return_lse", return_lse)):
        if not isinstance(flag, bool):
            raise TypeError(f"{name}: {_shown(flag)} is not True or False")
    scale, sequence_length = check_scale(scale), check_sequence_length(sequence_length)
    _check_tensors(query, key, value)
    batch, local_length, heads, head_dim = query.shape
    kv_heads, value_dim = value.shape[2:]
    total = local_length * world_size if sequence_length is None else sequence_length
    layout = Layout(total, world_size, rank, heads, kv_heads, bounded_branches(lengths, rates, total, heads), is_causal)
    owned = len(layout.shard(rank))
    if local_length != owned:
        raise ValueError(
            f"query, key and value: {local_length} rows, but of sequence_length {total} rank {rank} of {world_size} "
            f"owns {owned}"
        )
    wants_gradient = torch.is_grad_enabled()
    signature = {
        "sequence_length": total,
        "batch": batch,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": head_dim,
        "value_dim": value_dim,
        "dtype": str(query.dtype),
        "device": query.device.type,
        "segment_lengths": lengths,
        "dilation_rates": rates,
        "is_causal": is_causal,
        "scale": scale,
        "inputs that require gradients": [
            name
            for name, tensor in (("query", query), ("key", key), ("value", value))
            if wants_gradient and tensor.requires_grad
        ],
    }
    return Call(layout, 1 / math.sqrt(head_dim) if scale is None else scale, group), signature


def _check_tensors(query: Tensor, key: Tensor, value: Tensor) -> None:
    tensors = {"query": query, "key": key, "value": value}
    for name, tensor in tensors.items():
        if not isinstance(tensor, Tensor):
            raise TypeError(f"{name}: {_shown(tensor)} is not a torch.Tensor")
        if tensor.ndim != 4:
            raise ValueError(f"{name}: shape {tuple(tensor.shape)} is not {_DIMENSIONS[name]}")
        if tensor.dtype not in _DTYPES:
            raise ValueError(f"{name}: dtype {tensor.dtype} is not one of {', '.join(map(str, _DTYPES))}")
        if tensor.layout != torch.strided:
            raise ValueError(f"{name}: layout {tensor.layout} is not torch.strided")
    for what in ("dtype", "device"):
        kinds = {name: getattr(tensor, what) for name, tensor in tensors.items()}
        if len(set(kinds.values())) > 1:
            shown = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
            raise ValueError(f"{what}: {shown}; query, key and value must share one {what}")
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for dimension, meaning in enumerate(("batch", "local_length")):
        sizes = {shape[dimension] for shape in shapes.values()}
        if len(sizes) > 1:
            raise ValueError(f"{meaning}: dimension {dimension} of {_listed(shapes)} must be the same")
    heads, kv_heads = query.shape[2], key.shape[2]
    if value.shape[2] != kv_heads:
        raise ValueError(f"kv_heads: dimension 2 of key {shapes['key']} and value {shapes['value']} must be the same")
    if heads == 0 or kv_heads == 0 or heads % kv_heads:
        raise ValueError(f"heads: {heads} of query must be a positive multiple of the {kv_heads} kv_heads of key")
    if query.shape[3] != key.shape[3] or query.shape[3] == 0:
        raise ValueError(
            f"head_dim: dimension 3 of query {shapes['query']} and key {shapes['key']} must be the same and positive"
        )


def _agree(
    signature: dict[str, object], objection: Exception | None, rank: int, group: dist.ProcessGroup | None
) -> None:
    """Raise on every rank if any rank objects or if the ranks' signatures differ."""
    device = _control_device(group)
    accepted = hashlib.blake2b(json.dumps(signature).encode(), digest_size=16).digest()
    verdict = b"\x00" * 16 if objection is not None else accepted
    agreed = None
    if device.type != "cpu":
        members = group if group is not None else dist.group.WORLD
        assert members is not None
        agreed = _agreed.setdefault(members, set())
        if verdict in agreed:
            return
    verdicts = gather_bytes(verdict, group, device)
    if objection is None and len(set(verdicts)) == 1:
        if agreed is not None:
            agreed.add(verdict)
        return
    statement = json.dumps([type(objection).__name__, str(objection)] if objection is not None else signature).encode()
    length = max(
        int.from_bytes(length, "little") for length in gather_bytes(len(statement).to_bytes(8, "little"), group, device)
    )
    statements = [json.loads(text) for text in gather_bytes(statement.ljust(length), group, device)]
    if objection is not None:
        raise objection
    raise _disagreement(statements, rank)


def _disagreement(statements: list, rank: int) -> Exception:
    """Return the error of a rank whose own arguments are sound, from what all ranks stated."""
    world_size = len(statements)
    for other, statement in enumerate(statements):
        if isinstance(statement, list):
            kind, text = statement
            return _KINDS[kind](f"rank {other} of {world_size} refused its arguments: {text}")
    for name, own in statements[rank].items():
        stated = [statement[name] for statement in statements]
        if any(value != own for value in stated):
            shown = ", ".join(f"{value} on rank {other}" for other, value in enumerate(stated))
            hint = "; pass sequence_length for uneven shards" if name == "sequence_length" else ""
            return ValueError(f"{name}: {shown}; every rank must have the same{hint}")
    raise AssertionError("the ranks' digests differ, but not their signatures")


def _control_device(group: dist.ProcessGroup | None) -> torch.device:
    """Return where the group can exchange verdicts: on CPU if it has a backend for it."""
    if "cpu:" in dist.get_backend_config(group):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())


def _positive_integers(name: str, values: Sequence[int]) -> tuple[int, ...]:
    if isinstance(values, str | bytes | Tensor) or not isinstance(values, Sequence):
        raise TypeError(f"{name}: {_shown(values)} is not a list or tuple of positive integers")
    integers = tuple(_integer(name, value) for value in values)
    if not integers or min(integers) < 1:
        raise ValueError(f"{name}: {_shown(values)} must hold positive integers, at least one")
    return integers


def _integer(name: str, value: int) -> int:
    if isinstance(value, bool):
        raise TypeError(f"{name}: {value} is not an integer")
    try:
        return operator.index(value)
    except TypeError:
        raise TypeError(f"{name}: {_shown(value)} is not an integer") from None


def _listed(shapes: dict[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _shown(value: object) -> str:
    """Return a value as it was written, cut short when it is long."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
