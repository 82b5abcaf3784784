"""Passes over the tiles of some queries and keys: the outputs of the queries, and what each tile adds to gradients."""

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from attention_gate.reference._arguments import per_head
from attention_gate.reference._attention import Floats, Gradients, attention, part_of_gradients
from attention_gate.reference._dilated import Options
from attention_gate.reference._tiles import Indices, queries_that_may_see, tiles
from attention_gate.reference._visibility import Sight

#: Rows that were read lately are kept, up to this many bytes.
KEPT_BYTES = 128 << 20


class RowSource(Protocol):
    """Where rows are read from, some at a time: an array, one that is memory-mapped, or what draws them.

    ``np.load("keys.npy", mmap_mode="r")`` is one. It has a shape (batch, length, heads, dim), and source[:, rows] gives
    the rows of ascending indices, an array (batch, len(rows), heads, dim) of real numbers. Values must be finite.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """batch, length, heads or kv_heads, dim."""
        ...

    def __getitem__(self, rows: tuple[slice, Indices], /) -> Any:
        """Rows of ascending indices."""
        ...


@dataclass
class Head:
    """The queries of one head that count: out (parts, batch, rows, dim), lse; a part is one branch or all of them."""

    number: int
    rows: Indices
    out: Floats
    lse: Floats

    def add(self, part: int, at: Indices, out: Floats, lse: Floats) -> None:
        """Merge what a tile gives to some of the rows: out (batch, rows, dim), lse (batch, rows)."""
        before = self.lse[part][:, at]
        both = np.logaddexp(before, lse)
        weighted = weight_of(before, both)[..., None] * self.out[part][:, at]
        self.out[part][:, at] = weighted + weight_of(lse, both)[..., None] * out
        self.lse[part][:, at] = both


def weight_of(part: Floats, whole: Floats) -> Floats:
    """exp(part - whole); a part that sees nothing has no weight, also where the whole sees nothing."""
    return np.where(np.isneginf(part), 0.0, np.exp(part - whole))


Tile = tuple[int, Head, Indices, Indices]
"""A branch, a head, places among its rows, and rows of keys."""


class Work:
    """The inputs and options of one call, and its passes over tiles."""

    def __init__(
        self, query: RowSource, key: RowSource, value: RowSource, grad_out: RowSource, sight: Sight, options: Options
    ) -> None:
        self.sources = {"query": query, "key": key, "value": value, "grad_out": grad_out}
        self.sight, self.scale = sight, options.get("scale")
        self.dialect = options.get("dialect", "longnet")
        self.softcap = options.get("softcap")
        heads, self.group = query.shape[2], query.shape[2] // key.shape[2]
        slopes, sink = options.get("slopes"), options.get("sink")
        self.slopes = None if slopes is None else per_head("slopes", slopes, heads)
        self.sink = np.full(heads, -np.inf) if sink is None else per_head("sink", sink, heads)
        # Where branch weights are held constant, each branch has a softmax of its own.
        self.parts = len(sight.branches) if self.dialect == "torchscale" else 1
        self.batch = query.shape[0]
        self._kept: OrderedDict[tuple[str, bytes], Floats] = OrderedDict()
        self._bytes = 0

    def head(self, number: int, wanted: Indices, chosen: Indices) -> Head:
        """The queries that are wanted of a head, and those that see a chosen key."""
        offsets = enumerate(self.sight.offsets[:, number])
        seeing = [queries_that_may_see(self.sight, index, offset, chosen) for index, offset in offsets]
        rows = np.unique(np.concatenate([wanted, *seeing]))
        dim = self.sources["value"].shape[3]
        sizes = (self.parts, self.batch, len(rows))
        return Head(number, rows, np.zeros((*sizes, dim)), np.full(sizes, -np.inf))

    def read(self, name: str, rows: Indices, head: int) -> Floats:
        """Rows of one head, float64 (batch, rows, 1, dim)."""
        of = head // self.group if name in ("key", "value") else head
        return self._all_heads(name, rows)[:, :, of : of + 1]

    def _all_heads(self, name: str, rows: Indices) -> Floats:
        place = name, rows.tobytes()
        if place in self._kept:
            self._kept.move_to_end(place)
            return self._kept[place]
        read = np.asarray(self.sources[name][:, rows], dtype=np.float64)
        self._kept[place] = read
        self._bytes += read.nbytes
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].nbytes
        return read

    def tensors(self, head: Head, at: Indices, keys: Indices) -> tuple[Floats, Floats, Floats]:
        """query, key and value of one head and a tile."""
        rows = self.read("query", head.rows[at], head.number)
        return rows, self.read("key", keys, head.number), self.read("value", keys, head.number)

    def terms(self, head: Head, at: Indices, keys: Indices) -> dict[str, Any]:
        """What `attention` takes besides the rows themselves."""
        positions = self.sight.boundaries.queries(head.rows[at]).position, keys
        slopes = None if self.slopes is None else self.slopes[head.number : head.number + 1]
        return {"scale": self.scale, "softcap": self.softcap, "slopes": slopes, "positions": positions}

    def each_tile(
        self, heads: Sequence[Head], queries: Indices | None = None, keys: Indices | None = None
    ) -> Iterator[Tile]:
        """Each tile of each branch, for each of its heads.

        queries and keys: the only ones that count (None: all rows of the head, all keys). Heads of one offset are
        beside each other, as they read the same keys.
        """
        for index in range(len(self.sight.branches)):
            of_heads = self.sight.offsets[index, [head.number for head in heads]]
            for offset in np.unique(of_heads).tolist():
                alike = [head for head, its_own in zip(heads, of_heads, strict=True) if its_own == offset]
                rows = queries if queries is not None else np.unique(np.concatenate([head.rows for head in alike]))
                for at, tile in tiles(self.sight, index, offset, rows, keys):
                    for head in alike:
                        places = np.searchsorted(head.rows, rows[at]).clip(max=len(head.rows) - 1)
                        places = places[head.rows[places] == rows[at]]
                        if len(places):
                            yield index, head, places, tile

    def every_pass(self, heads: Sequence[Head], wanted: Indices, chosen: Indices) -> Iterator[Iterator[Tile]]:
        """The tiles of the outputs, of the gradients of the wanted queries, of those of the chosen keys."""
        yield self.each_tile(heads)
        yield self.each_tile(heads, queries=wanted)
        yield self.each_tile(heads, keys=chosen)

    def mask(self, index: int, head: Head, at: Indices, keys: Indices) -> NDArray[np.bool_]:
        """Which of the keys of a tile its queries see, (1, queries, keys)."""
        return self.sight.mask(index, np.array([head.number]), head.rows[at], keys)

    def attend(self, heads: Sequence[Head], tiles_of: Iterator[Tile]) -> None:
        """Fill in out and lse of the rows of all heads."""
        for index, head, at, keys in tiles_of:
            mask, terms = self.mask(index, head, at, keys), self.terms(head, at, keys)
            out, lse = attention(*self.tensors(head, at, keys), mask, **terms)
            head.add(index if self.parts > 1 else 0, at, out[:, :, 0], lse[:, 0])
        for head in heads:
            if self.sink[head.number] > -np.inf:  # one more part, of no value
                everywhere = np.arange(len(head.rows))
                head.add(0, everywhere, np.zeros_like(head.out[0]), np.full_like(head.lse[0], self.sink[head.number]))

    def part_of_gradients(self, index: int, head: Head, at: Indices, keys: Indices) -> Gradients:
        """What one tile adds to the gradients."""
        upstream, lse, D = self.upstream(head, index if self.parts > 1 else 0, at)
        mask, terms = self.mask(index, head, at, keys), self.terms(head, at, keys)
        return part_of_gradients(*self.tensors(head, at, keys), mask, upstream, lse[:, None], D[:, None], **terms)

    def upstream(self, head: Head, part: int, at: Indices) -> tuple[Floats, Floats, Floats]:
        """grad_out as it reaches a branch (batch, rows, 1, dim), and the lse and D that go with it (batch, rows)."""
        grad_out, lse = self.read("grad_out", head.rows[at], head.number), head.lse[part][:, at]
        if self.parts > 1:
            grad_out = grad_out * weight_of(lse, np.logaddexp.reduce(head.lse[:, :, at]))[:, :, None, None]
        return grad_out, lse, (grad_out[:, :, 0] * head.out[part][:, at]).sum(axis=-1)
