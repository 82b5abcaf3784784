"""Bad arguments are refused on every rank, so that no rank is left waiting for one that raised."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.arguments import Arguments, check
from attention_gate.impls.exchange import gather_bytes, members_of
from attention_gate.impls.given_values import shown
from attention_gate.impls.path import chosen
from attention_gate.impls.scores import Scores
from attention_gate.impls.tiling import Layout

_KINDS: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError}
_OBJECTION = bytes(16)

# On accelerators, what each group has agreed upon: asking again would make the host wait for the device at every call.
_agreed: WeakKeyDictionary[dist.ProcessGroup, set[bytes]] = WeakKeyDictionary()

# Layout, scores and is_zigzag of calls that were agreed upon there, by all that was given: checking again would take
# the host longer than a small call takes the device.
_Known = dict[tuple, tuple[Layout, Scores, bool]]
_admitted: WeakKeyDictionary[dist.ProcessGroup, _Known] = WeakKeyDictionary()
_KEPT_CALLS = 1024
_PLAIN_TYPES = (bool, int, float, str, type(None))


@dataclass(frozen=True)
class Call:
    """What a call is to do, the same on all ranks but for the rank in the layout."""

    layout: Layout
    scores: Scores
    is_zigzag: bool
    group: dist.ProcessGroup | None
    sink: Tensor | None = None
    joint: tuple[Tensor, Tensor] | None = None  # rows of key and value that every rank has


def admit(implementation: str, arguments: Arguments, group: dist.ProcessGroup | None) -> Call:
    """Return what to do, or raise TypeError or ValueError on every rank of the group.

    A rank whose own arguments are sound learns which rank objected, and to what, or in what the ranks differ. On CPU
    every call is checked; on accelerators each signature once.
    """
    rank, world_size, objection = _position(group)
    members = group if objection is None else None
    known: _Known = {}
    given = _as_given(implementation, arguments) if objection is None and world_size > 1 else None
    if given is not None:
        known = _admitted.setdefault(members_of(members), known)
        if given in known:
            return Call(*known[given], members)
    signature: dict[str, object] = {}
    if objection is None:
        try:
            layout, scale, terms, signature = check(arguments, rank, world_size)
            scores = Scores(scale, terms.softcap, terms.slopes, terms.mask)
        except (TypeError, ValueError) as error:
            objection = error
    if world_size > 1:
        _agree({"implementation": implementation, "kernels": chosen(), **signature}, objection, rank, members)
    if objection is not None:
        raise objection
    # Of one rank both layouts are the same.
    is_zigzag = arguments.layout == "zigzag" and world_size > 1
    if given is not None:
        if len(known) >= _KEPT_CALLS:
            known.clear()
        known[given] = layout, scores, is_zigzag
    return Call(layout, scores, is_zigzag, members, terms.sink, terms.joint)


def forget() -> None:
    """Agree upon every signature anew, as at first: to be called on all ranks, between the same calls."""
    _agreed.clear()
    _admitted.clear()


def _as_given(implementation: str, arguments: Arguments) -> tuple | None:
    """Return all that decides whether a call is sound and what is agreed upon; None where every call is checked.

    With the types of all options, as True is no 1 and 2.0 no 2, although they are equal.
    """
    tensors, options = arguments[:3], arguments[3:-2]
    if (
        arguments.unknown
        or arguments.terms.given
        or not all(isinstance(tensor, Tensor) and _is_remembered(tensor) for tensor in tensors)
    ):
        return None
    given: list[object] = [implementation, chosen(), torch.is_grad_enabled()]
    given += [(each.shape, each.dtype, each.device, each.layout, each.requires_grad) for each in tensors]
    for option in options:
        entries = option if type(option) in (list, tuple) else (option,)
        kinds = tuple(map(type, entries))
        if not all(kind in _PLAIN_TYPES for kind in kinds):
            return None
        given.append((type(option), kinds, tuple(entries)))
    return tuple(given)


def _is_remembered(tensor: Tensor) -> bool:
    return tensor.is_cuda


def _position(group: Any) -> tuple[int, int, Exception | None]:
    """Return this process's rank, the world size, and an objection to the group itself.

    What is no group cannot carry the objection to the other ranks; it travels over the default group instead.
    """
    is_ready = dist.is_available() and dist.is_initialized()
    is_member = not (isinstance(group, int) and group == dist.GroupMember.NON_GROUP_MEMBER)
    objection = None
    if group is not None and is_member and not (is_ready and isinstance(group, dist.ProcessGroup)):
        objection = TypeError(f"group: {shown(group)} is not a process group of torch.distributed or None")
        group = None
    if not is_member:
        raise ValueError("group: this process is not a member of the group")
    if not is_ready:
        return 0, 1, objection
    return dist.get_rank(group), dist.get_world_size(group), objection


def _agree(
    signature: dict[str, object], objection: Exception | None, rank: int, group: dist.ProcessGroup | None
) -> None:
    """Raise on every rank if any rank objects or if the ranks' signatures differ."""
    device = _control_device(group)
    digest = hashlib.blake2b(json.dumps(signature).encode(), digest_size=len(_OBJECTION)).digest()
    verdict = digest if objection is None else _OBJECTION
    settled: set[bytes] = set()
    if signature.get("device", "cpu") != "cpu":
        settled = _agreed.setdefault(members_of(group), settled)
    if verdict in settled:
        return
    verdicts = set(gather_bytes(verdict, group, device))
    if verdicts == {digest}:
        if not settled and signature["device"] == "cuda" and device.type == "cpu":
            # What comes next may be messages between some of the ranks, which NCCL cannot begin a group with.
            gather_bytes(verdict, group, torch.device("cuda", torch.cuda.current_device()))
        if len(settled) >= _KEPT_CALLS:  # on every rank at once: all have added the same digests
            settled.clear()
        settled.add(digest)
        return
    statement = signature if objection is None else [type(objection).__name__, str(objection)]
    statements = _gather_statements(statement, group, device)
    raise objection or _disagreement(statements, rank)


def _gather_statements(statement: object, group: dist.ProcessGroup | None, device: torch.device) -> list:
    """Return what every rank states, of any length: first the lengths travel, then the statements, padded."""
    text = json.dumps(statement).encode()
    lengths = gather_bytes(len(text).to_bytes(8, "little"), group, device)
    longest = max(int.from_bytes(length, "little") for length in lengths)
    return [json.loads(stated) for stated in gather_bytes(text.ljust(longest), group, device)]


def _disagreement(statements: list, rank: int) -> Exception:
    """Return the error of a rank whose own arguments are sound, from what all ranks stated."""
    for other, statement in enumerate(statements):
        if isinstance(statement, list):
            kind, text = statement
            return _KINDS[kind](f"rank {other} of {len(statements)} refused its arguments: {text}")
    for name in statements[rank]:
        stated = [statement[name] for statement in statements]
        if any(value != stated[rank] for value in stated):
            listed = ", ".join(f"{value} on rank {other}" for other, value in enumerate(stated))
            hint = "; uneven shards need the argument sequence_length" if name == "sequence_length" else ""
            return ValueError(f"{name}: {listed}; it must be the same on every rank{hint}")
    raise AssertionError("the digests differ, but the signatures do not")


def _control_device(group: dist.ProcessGroup | None) -> torch.device:
    """Return where the group can exchange verdicts: on CPU if it has a backend for it."""
    if "cpu:" in dist.get_backend_config(group):
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device())
