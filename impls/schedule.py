"""The plan of one rank as index tensors: what to send to whom, what to expect from whom, what to compute on it."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from attention_gate.impls.tiling import Layout, any_row_travels, needed_rows, placed, tiles
from attention_gate.impls.work import Work, batch_tiles


@dataclass(frozen=True)
class Hop:
    """One hop of the ring, t steps away: its rows leave for rank + t, other rows come from rank - t and are used."""

    steps: int
    destination: int
    sent: Tensor  # which (row, kv head) of this rank's the destination needs
    source: int
    received: int  # how many come
    works: tuple[Work, ...]  # what to compute on them, a branch each


@dataclass(frozen=True)
class Gathering:
    """One exchange of all with all, after which a block holds this rank's own rows, then each other rank's in order."""

    travels: bool  # whether any rank needs another's rows, the same on every rank; if not, nothing is exchanged
    own: Tensor  # which of this rank's rows it needs itself
    sent: Tensor  # which of its rows the other ranks need, rank after rank
    send_rows: list[int]
    receive_rows: list[int]
    works: tuple[Work, ...]  # what to compute on the gathered rows, a branch each


# Index tensors of long sequences are not kept: they would fill the memory, and making them is small beside using them.
_KEPT_ELEMENTS = 1 << 16


class Ring:
    """The hops of one rank, in order; hop 0 is its own rows, which do not travel.

    Every rank posts its hops in the same order, so the messages of a hop wait for nothing but messages of earlier hops,
    whichever ranks skip it for want of rows: no order of arrival can deadlock, also where a rank's batches run one
    after the other, as under NCCL.
    """

    def __init__(self, layout: Layout, device: torch.device, needs_places: bool = False) -> None:
        self._layout, self._device, self._needs_places = layout, device, needs_places
        self._kept: dict[int, Hop] = {}

    def hops(self) -> Iterator[tuple[Hop, Hop | None]]:
        """Yield each hop together with the one that follows, which may start before this one is done."""
        following = self._hop(0)
        for steps in range(1, self._layout.world_size):
            hop, following = following, self._hop(steps)
            yield hop, following
        yield following, None

    def _hop(self, steps: int) -> Hop:
        hop = self._kept.get(steps)
        if hop is None:
            hop = self._make_hop(steps)
            if hop.sent.numel() + _elements(hop.works) <= _KEPT_ELEMENTS:
                self._kept[steps] = hop
        return hop

    def _make_hop(self, steps: int) -> Hop:
        layout, device = self._layout, self._device
        destination = (layout.rank + steps) % layout.world_size
        source = (layout.rank - steps) % layout.world_size
        leaving, coming, lookup = bytearray(), bytearray(), None
        if steps:
            leaving, coming = needed_rows(layout, destination, layout.rank), needed_rows(layout, layout.rank, source)
            lookup = _places(coming)
        works: tuple[Work, ...] = ()
        if coming.count(1) or not steps:
            works = _works(layout, layout.parts(source), lookup, device, self._needs_places)
        return Hop(steps, destination, _marked(leaving).to(device), source, coming.count(1), works)


@lru_cache(maxsize=64)
def ring(layout: Layout, device: torch.device, needs_places: bool = False) -> Ring:
    """Return the ring as the rank of the layout sees it; positions are kept if scores need them."""
    return Ring(layout, device, needs_places)


@lru_cache(maxsize=64)
def joint_works(layout: Layout, device: torch.device, needs_places: bool = False) -> tuple[Work, ...]:
    """Return what the rank of the layout computes on the keys that every rank has."""
    return _works(layout, (layout.joint_rows,), None, device, needs_places) if layout.joint_length else ()


def gathering(layout: Layout, device: torch.device, needs_places: bool = False) -> Gathering:
    """Return what the rank of the layout gathers and what it computes on it."""
    made = _small_gathering(layout, device, needs_places)
    return made if made is not None else _make_gathering(layout, device, needs_places)


@lru_cache(maxsize=64)
def _small_gathering(layout: Layout, device: torch.device, needs_places: bool) -> Gathering | None:
    made = _make_gathering(layout, device, needs_places)
    return made if made.own.numel() + made.sent.numel() + _elements(made.works) <= _KEPT_ELEMENTS else None


def _make_gathering(layout: Layout, device: torch.device, needs_places: bool) -> Gathering:
    rank = layout.rank
    ranks = range(layout.world_size)
    received = [needed_rows(layout, rank, source) for source in ranks]
    sent = [needed_rows(layout, destination, rank) for destination in ranks]
    own, others = received[rank], [other for other in ranks if other != rank]
    sources = [source for source in ranks if any(received[source])] or [rank]
    places, gathered = {rank: _places(own)}, own.count(1)
    for source in others:
        places[source] = _places(received[source]) + gathered
        gathered += received[source].count(1)
    neighbourhood = range(sources[0], sources[-1] + 1)
    keys = [rows for source in neighbourhood for rows in layout.parts(source)]
    return Gathering(
        any_row_travels(layout),
        _marked(own).to(device),
        torch.cat([_marked(bytearray()), *(_marked(sent[other]) for other in others)]).to(device),
        [0 if other == rank else sent[other].count(1) for other in ranks],
        [0 if other == rank else received[other].count(1) for other in ranks],
        _works(layout, keys, torch.cat([places[source] for source in neighbourhood]), device, needs_places)
        if gathered
        else (),
    )


def _works(
    layout: Layout, keys: Iterable[range], lookup: Tensor | None, device: torch.device, needs_places: bool
) -> tuple[Work, ...]:
    """Return what the rank of the layout computes on the keys of these positions, branch by branch and part by part."""
    queries = placed(layout.query_parts(layout.rank))
    works = (
        batch_tiles(tiles(layout, branch, rows, owned), layout, query_origin, key_origin, lookup, device, needs_places)
        for branch, (rows, query_origin), (owned, key_origin) in itertools.product(
            layout.branches, queries, placed(keys)
        )
    )
    return tuple(work for work in works if work is not None)


def _marked(marks: bytearray) -> Tensor:
    """Return the indices of the marked entries."""
    return _tensor(marks).nonzero().flatten()


def _places(marks: bytearray) -> Tensor:
    """Return where each marked entry comes to lie when only the marked ones are kept."""
    return _tensor(marks).cumsum(0) - 1


def _tensor(marks: bytearray) -> Tensor:
    # An empty buffer has no address for torch to share.
    return torch.frombuffer(marks, dtype=torch.uint8) if marks else torch.empty(0, dtype=torch.uint8, device="cpu")


def _elements(works: tuple[Work, ...]) -> int:
    return sum(work.query_index.numel() + work.key_index.numel() for work in works)
