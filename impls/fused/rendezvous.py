"""How the ranks of a group meet in torch's symmetric memory, whatever each of them has met for before.

Torch has the ranks that meet leave notes for each other in a store, under keys `kind/number/rank`. The number counts
the exchanges of the *process*, whichever groups they were in (torch 2.11 to 2.13, pytorch#196082). Ranks that have
counted differently, as some of them have met in a smaller group, wait for keys that nobody writes. Groups are known by
names, which torch gives again once a group is destroyed. Here each meeting has a name, a group and a store of its own,
and the store counts its exchanges from 0. Where torch counts by group, as it does later, that changes nothing.
"""

import re
import secrets
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.exchange import gather_bytes

# All ranks come to a meeting right after they have agreed upon its name. One that takes longer has failed on its way.
_PATIENCE = timedelta(minutes=1)

_EXCHANGE = re.compile(r"(.+)/(\d+)/(\d+)")


class MeetingStore(dist.Store):
    """A store for one meeting: keys `kind/number/rank` are numbered by the exchanges of this meeting alone.

    All ranks of a meeting make the same exchanges in the same order, so that the first number that a rank names is the
    first exchange, whatever number it is.
    """

    def __init__(self, inner: dist.Store) -> None:
        super().__init__()
        self._inner = inner
        self._numbers: dict[str, dict[str, int]] = {}

    def set(self, key: str, value: Any) -> None:
        """Leave a note."""
        self._inner.set(self._renamed(key), value)

    def get(self, key: str) -> bytes:
        """Return a note, once it is there."""
        return self._inner.get(self._renamed(key))

    def multi_get(self, keys: Sequence[str]) -> list[bytes]:
        """Return several notes, once all are there."""
        return [self.get(key) for key in keys]

    def wait(self, keys: Sequence[str], timeout: timedelta = _PATIENCE) -> None:
        """Return once the notes are there; raise a RuntimeError if that takes too long."""
        self._inner.wait([self._renamed(key) for key in keys], min(timeout, _PATIENCE))

    def _renamed(self, key: str) -> str:
        found = _EXCHANGE.fullmatch(key)
        if found is None:
            return key
        kind, number, rank = found.groups()
        numbers = self._numbers.setdefault(kind, {})
        return f"{kind}/{numbers.setdefault(number, len(numbers))}/{rank}"


def new_name(group: dist.ProcessGroup, device: torch.device) -> str:
    """Return a name that no meeting has had, the same on every rank of the group, all of which call this."""
    drawn = gather_bytes(secrets.token_bytes(16), group, device)
    return f"attention_gate/{drawn[0].hex()}"


def rendezvous(local: Tensor, group: dist.ProcessGroup, name: Any) -> Any:
    """Return torch's handle of the memory that the ranks of the group share, each its `local` from symmetric memory.

    Every rank of the group calls this with the same, new `name`. Raises RuntimeError where the memory cannot be shared.
    """
    from torch._C._distributed_c10d import _register_process_group, _SymmetricMemory, _unregister_process_group

    rank, world_size = dist.get_rank(group), dist.get_world_size(group)
    store = MeetingStore(dist.PrefixStore(name, group.get_group_store()))
    # Torch 2.11 finds the store by the name of the group, later ones find the group, and ask that for its store.
    members = dist.ProcessGroup(store, rank, world_size)
    _SymmetricMemory.set_group_info(name, rank, world_size, store)
    _register_process_group(name, members)
    try:
        return _SymmetricMemory.rendezvous(local, name)
    finally:
        _unregister_process_group(name)
