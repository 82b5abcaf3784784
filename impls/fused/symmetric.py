"""A transport over memory that the GPUs of one host share: copy engines move the rows, and kernels keep all processors.

Rows are pulled from where their owner packed them; gradients are pushed to an inbox of the owner. A barrier on the
device separates those who write from those who read; the host waits for nothing once a workspace is there. No
multicast.

A pass can be captured in a CUDA graph: all of it is joined to the stream that captures it, and it waits for nothing
that was begun before.
"""

import hashlib
import logging
import socket
import warnings
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from attention_gate.impls.exchange import gather_bytes, members_of
from attention_gate.impls.fused.capturing import is_captured
from attention_gate.impls.fused.plan import Span, Transfer
from attention_gate.impls.fused.rendezvous import new_name, rendezvous
from attention_gate.impls.fused.row_transport import Gradients, copy_own

# Off, rows and gradients travel as messages: set it alike on all ranks, before their first call.
is_wanted = True

_PUBLISHED, _HOME = 0, 1  # channels of barriers

_log = logging.getLogger(__name__)


class Workspace:
    """Memory of one size on every rank of a group, and the streams that copy to and from it."""

    def __init__(self, local: Tensor, handle: Any, rank: int, world_size: int) -> None:
        self.local, self.handle, self.size = local, handle, local.numel()
        self.rank, self.world_size = rank, world_size
        self.fetching = torch.cuda.Stream(local.device, priority=-1)
        self.homing = torch.cuda.Stream(local.device, priority=-1)
        # What the next pass must wait for, whichever stream it runs on: that all ranks have fetched what this one
        # packed, and that this one reads its own part of the memory no more.
        self.fetched: torch.cuda.Event | None = None
        self.read: torch.cuda.Event | None = None
        self._places: dict[tuple[int, int, tuple[int, ...], torch.dtype], Tensor] = {}

    def of(self, peer: int, start: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return a tensor in a rank's part of the memory, `start` bytes into it."""
        key = (peer, start, shape, dtype)
        place = self._places.get(key)
        if place is None:
            if len(self._places) >= _KEPT_PLACES:
                self._places.clear()
            with torch.inference_mode(False):  # It outlives the pass that asked first, whose mode it must not take on.
                place = self._places[key] = self.handle.get_buffer(peer, shape, dtype, start // dtype.itemsize)
        return place


_KEPT_PLACES = 1024

# What each group shares, or why its ranks send messages instead.
_shared: WeakKeyDictionary[dist.ProcessGroup, Workspace | str] = WeakKeyDictionary()


def held_bytes() -> int:
    """Return how much memory workspaces hold on this rank, beyond what torch.cuda.memory_allocated counts."""
    return sum(shared.size for shared in _shared.values() if isinstance(shared, Workspace))


def refusal(group: dist.ProcessGroup | None) -> str | None:
    """Return why the ranks of a group send messages, "" if they share memory, None if no call has asked for any yet."""
    shared = _shared.get(members_of(group))
    return shared if shared is None or isinstance(shared, str) else ""


def workspace(size: int, group: dist.ProcessGroup | None, device: torch.device) -> Workspace | None:
    """Return memory of at least that many bytes on each rank, or None on all ranks where they cannot share any."""
    members = members_of(group)
    if members not in _shared and (reason := _objection(members, device)):
        _shared[members] = reason
        _log.info("ranks send messages: %s", reason)
    there = _shared.get(members)
    if isinstance(there, str):
        return None
    if there is not None and there.size >= size:
        return there
    # No rank lets go of its memory before all have done with it, and none waits for one that could not get any.
    torch.cuda.synchronize(device)
    name = new_name(members, device)
    _shared.pop(members, None)
    del there
    made = _shared[members] = _make(-(-size // _GRAIN) * _GRAIN, members, device, name)
    if isinstance(made, str):
        warnings.warn(f"ranks send messages: {made}", stacklevel=4)
        return None
    return made


_GRAIN = 2 << 20


def _make(size: int, group: dist.ProcessGroup, device: torch.device, name: str) -> Workspace | str:
    """Return a workspace, or on every rank why there is none if any rank has none."""
    import torch.distributed._symmetric_memory as symmetric_memory

    local, handle, reason = None, None, "another rank could not share its memory"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            local = symmetric_memory.empty(size, dtype=torch.uint8, device=device)
        except RuntimeError as error:
            reason = str(error)
        if _on_all(local is not None, group, device):
            assert local is not None
            try:
                handle = rendezvous(local, group, name)
            # All but the first where torch has moved or changed private parts.
            except (RuntimeError, ImportError, AttributeError, TypeError) as error:
                reason = str(error)
            if _on_all(handle is not None, group, device):
                assert handle is not None
                return Workspace(local, handle, dist.get_rank(group), dist.get_world_size(group))
    return f"GPUs do not share memory: {reason}"


def _on_all(is_here: bool, group: dist.ProcessGroup, device: torch.device) -> bool:
    return set(gather_bytes(bytes([is_here]), group, device)) == {b"\x01"}


def _objection(group: dist.ProcessGroup, device: torch.device) -> str:
    """Return why no memory is asked for, the same on every rank, or "" if it is."""
    if reason := objection_of(device):
        return reason
    if "cuda:nccl" not in (backends := dist.get_backend_config(group)):
        return f"the group's backends are {backends}, not NCCL: its ranks may share a GPU"
    host = hashlib.blake2b(f"{socket.gethostname()} {_boot()}".encode(), digest_size=16).digest()
    return "" if set(gather_bytes(host, group, device)) == {host} else "the ranks are on several hosts"


def objection_of(device: torch.device) -> str:
    """Return why no rank would ask for memory on such a device, or "" if it would."""
    if not is_wanted:
        return "shared memory is switched off"
    return "" if device.type == "cuda" else f"{device.type} has no memory that ranks share"


def _boot() -> str:
    """Return what is different on two hosts of one name, where the system has it."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        return ""


class SharedMemory:
    """A transport over a workspace; passes of one group follow one another, whatever streams they run on."""

    @staticmethod
    def bytes_needed(span: Span, parts: int, widths: tuple[int, int], dtype: torch.dtype, world_size: int) -> int:
        """Return how much a workspace must hold: what is packed, and two parts' gradients from each other rank."""
        part = span.rows * sum(widths) * dtype.itemsize
        return part * (parts + min(2, parts) * (world_size - 1))

    def __init__(self, place: Workspace, span: Span, dtype: torch.dtype, parts: int, widths: tuple[int, int]) -> None:
        self._place, self._span, self._dtype, self._parts, self._widths = place, span, dtype, parts, widths
        self._part_bytes = span.rows * sum(widths) * dtype.itemsize
        shape = (parts, span.rows, sum(widths))
        self.packed = place.of(place.rank, 0, shape, dtype)
        self._arrivals: dict[int, torch.cuda.Event] = {}
        self._releases: dict[int, torch.cuda.Event] = {}
        self._homecomings: dict[int, torch.cuda.Event] = {}
        self._consumptions: dict[int, torch.cuda.Event] = {}
        self._leaving: dict[int, list[tuple[Transfer, Tensor, Tensor]]] = {}
        self._used = [place.fetching]
        # What comes before a capture has been waited for: torch.cuda.graph synchronizes.
        if not is_captured():
            for event in (place.fetched, place.read):
                if event is not None:
                    event.wait()

    def publish(self) -> None:
        """Have all ranks wait on the device until each has packed."""
        place = self._place
        place.fetching.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(place.fetching):
            place.handle.barrier(channel=_PUBLISHED)

    def fetch(self, part: int, buffer: Tensor) -> None:
        """Start to copy one part of the wanted rows from where their owners packed them, and own rows."""
        place = self._place
        with torch.cuda.stream(place.fetching):
            if part >= 2:
                self._releases.pop(part - 2).wait()
            for want in self._span.wants:
                rows = self._packed_by(want, part)
                buffer.narrow(0, want.place, len(rows)).copy_(rows)
            copy_own(self._span, self.packed[part], buffer)
            self._arrivals[part] = _event()
            if part == self._parts - 1:
                # The rank that packs next must know that all have fetched.
                place.handle.barrier(channel=_PUBLISHED)
                place.fetched = _event()

    def arrived(self, part: int) -> None:
        """Make the current stream wait until the part is copied."""
        self._arrivals.pop(part).wait()

    def released(self, part: int) -> None:
        """Note what the stream that copies to this buffer next must wait for."""
        self._releases[part] = _event()

    def send_home(self, part: int, outgoing: list[tuple[Transfer, Tensor, Tensor]]) -> None:
        """Start to copy the gradients of one part to the inboxes of the ranks that own the rows."""
        place = self._place
        self._leaving[part] = outgoing
        self._used = [place.fetching, place.homing]
        place.homing.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(place.homing):
            for want, *grads in outgoing:
                inboxes = self._inboxes(want.peer, part, place.rank, want.start, want.stop)
                for inbox, grad in zip(inboxes, grads, strict=True):
                    inbox.copy_(grad)
            if part:
                self._consumptions.pop(part - 1).wait()
            # After it all gradients of this part are here, and no rank reads those of the part before any more, whose
            # place the next part takes.
            place.handle.barrier(channel=_HOME)
            self._homecomings[part] = _event()

    def home(self, part: int) -> list[Gradients]:
        """Make the current stream wait until all have copied, and return what lies in this rank's inboxes."""
        self._homecomings.pop(part).wait()
        del self._leaving[part]
        coming = []
        for give in self._span.gives:
            inboxes = self._inboxes(self._place.rank, part, give.peer, give.start, give.stop)
            coming.append(Gradients(give.start, give.stop, *inboxes))
        return coming

    def consumed(self, part: int) -> None:
        """Note what must be done before the next part's gradients take the place of this one's."""
        self._consumptions[part] = _event()

    def ended(self) -> None:
        """Note what the next pass must wait for before it packs; a pass that is captured ends here as a whole."""
        place = self._place
        if is_captured():
            for stream in self._used:
                torch.cuda.current_stream().wait_stream(stream)
            place.fetched = place.read = None  # what follows the graph on its stream follows all of it
        else:
            place.read = _event()

    def _packed_by(self, want: Transfer, part: int) -> Tensor:
        """Return the rows of a part that another rank has packed and this one wants."""
        width = sum(self._widths)
        start = part * self._part_bytes + want.start * width * self._dtype.itemsize
        return self._place.of(want.peer, start, (want.stop - want.start, width), self._dtype)

    def _inboxes(self, owner: int, part: int, sender: int, first: int, last: int) -> tuple[Tensor, Tensor]:
        """Return where at their owner a sender's gradients of some rows lie, those of keys and those of values.

        Each is (rows, elements), of rows `first` to `last` of the owner's.
        """
        place, item = self._place, self._dtype.itemsize
        others = place.world_size - 1
        slot = part % 2 * others + (sender - owner - 1) % place.world_size
        start = self._part_bytes * (self._parts + slot)
        keys, values = self._widths
        middle = start + self._span.rows * keys * item
        return (
            place.of(owner, start + first * keys * item, (last - first, keys), self._dtype),
            place.of(owner, middle + first * values * item, (last - first, values), self._dtype),
        )


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record()
    return event
