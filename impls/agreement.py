"""Bad arguments are refused on every rank, so that no rank is left waiting for one that raised."""

import hashlib
import json
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from impls.arguments import Arguments, check, shown
from impls.exchange import gather_bytes
from impls.plan import Layout

_KINDS: dict[str, type[Exception]] = {"TypeError": TypeError, "ValueError": ValueError}
_OBJECTION = bytes(16)

# On accelerators, what each group has agreed upon: asking again would make the host wait for the device at every call.
_agreed: WeakKeyDictionary[dist.ProcessGroup, set[bytes]] = WeakKeyDictionary()


@dataclass(frozen=True)
class Call:
    """What a call is to do, the same on all ranks but for the rank in the layout."""

    layout: Layout
    scale: float
    is_zigzag: bool
    group: dist.ProcessGroup | None


def admit(implementation: str, arguments: Arguments, group: dist.ProcessGroup | None) -> Call:
    """Return what to do, or raise TypeError or ValueError on every rank of the group.

    A rank whose own arguments are sound learns which rank objected, and to what, or in what the ranks differ. On CPU
    every call is checked; on accelerators each signature once.
    """
    rank, world_size, objection = _position(group)
    members = group if objection is None else None
    signature: dict[str, object] = {}
    if objection is None:
        try:
            layout, scale, signature = check(arguments, rank, world_size)
        except (TypeError, ValueError) as error:
            objection = error
    if world_size > 1:
        _agree({"implementation": implementation, **signature}, objection, rank, members)
    if objection is not None:
        raise objection
    # Of one rank both layouts are the same.
    is_zigzag = arguments.layout == "zigzag" and world_size > 1
    return Call(layout, scale, is_zigzag, members)


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
    if not is_member or (is_ready and dist.get_rank(group) < 0):
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
        members = group if group is not None else dist.group.WORLD
        assert members is not None
        settled = _agreed.setdefault(members, settled)
    if verdict in settled:
        return
    verdicts = set(gather_bytes(verdict, group, device))
    if verdicts == {digest}:
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
