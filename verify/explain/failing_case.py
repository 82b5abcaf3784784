"""A failing case as the wrong formulas need it: values, shards, masks, and attention under any mask."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cached_property

import numpy as np

from attention_gate import reference
from attention_gate.verify.case.case import Case
from attention_gate.verify.case.masks import branch_masks
from attention_gate.verify.case.positions import Positions
from attention_gate.verify.judge.oracle import Answer, Inputs

Array = np.ndarray

#: A wrong formula: what it does in words, and the tensors that it gives; None where it does not apply.
Guess = tuple[str, Callable[[], Mapping[str, Array] | None]]

#: What an optional term or a length may be taken for, in words, and what that gives: all tensors, or some of them.
Meaning = tuple[str, Callable[[], dict[str, Array]]]

#: Masks (branches, heads, rows, keys) for queries and keys at these positions.
Sight = Callable[[Array, Array], Array]


class Setting:
    """The values of a case and the owner of each row."""

    def __init__(self, case: Case, positions: Positions, dialect: str, inputs: Inputs, answer: Answer) -> None:
        self.case = case
        self.positions = [np.asarray(owned) for owned in positions.keys]
        self.queries = positions.queries
        self.dialect = dialect
        self.inputs = inputs
        self.answer = answer
        self.pairs = reference.branches(case.segment_lengths, case.dilation_rates)
        self.scale = case.head_dim**-0.5 if case.scale is None else case.scale
        self.ranks = len(self.positions)
        #: The rank that owns each row, and the index of the row in its shard.
        self.owner = np.zeros(case.length, dtype=int)
        self.local = np.zeros(case.length, dtype=int)
        for rank, owned in enumerate(self.positions):
            self.owner[owned] = rank
            self.local[owned] = np.arange(len(owned))
        #: The hop on which a ring brings each key to each query (queries, keys).
        self.hop = (self.owner[:, None] - self.owner) % self.ranks

    @cached_property
    def offsets(self) -> Array:
        """The offset of each head in each branch (branches, heads); -1 where it takes no part."""
        return reference.head_offsets(self.case.heads, self.pairs, self.dialect)

    @cached_property
    def masks(self) -> Array:
        """The right masks (branches, heads, length, length)."""
        return branch_masks(self.case, self.dialect)

    def sight(
        self,
        *,
        residue: Callable[[Array, int], Array] = lambda positions, segment: positions % segment,
        segment_of: Callable[[Array], Array] = lambda positions: positions,
        causal: Callable[[Array, Array], Array] | None = None,
        offsets: Array | None = None,
        clamp: bool = False,
    ) -> Sight:
        """Masks by the definition, with some rules replaced."""
        offsets = self.offsets if offsets is None else offsets

        def of(rows: Array, keys: Array) -> Array:
            found = np.empty((len(self.pairs), self.case.heads, len(rows), len(keys)), dtype=bool)
            for branch, (segment, rate) in enumerate(self.pairs):
                rate = min(rate, segment) if clamp else rate
                offset = offsets[branch][:, None] % rate if clamp else offsets[branch][:, None]
                row_selected, key_selected = (residue(x, segment) % rate == offset for x in (rows, keys))
                same = (segment_of(rows) // segment)[:, None] == segment_of(keys) // segment
                found[branch] = row_selected[:, :, None] & key_selected[:, None, :] & same
                if self.case.is_causal:
                    found[branch] &= (keys <= rows[:, None]) if causal is None else causal(rows[:, None], keys)
            return found

        return of

    def assembled(
        self,
        sight: Sight,
        *,
        row_labels: Callable[[int], Array] | None = None,
        key_labels: Callable[[int, int], Array] | None = None,
        skip: bool = False,
    ) -> Array | None:
        """Masks put together block by block, each by the positions that the ranks take rows and keys for.

        ``skip`` leaves out blocks that are in the future as a whole. None if a label has the wrong number of rows.
        """
        whole = np.zeros((len(self.pairs), self.case.heads, self.case.length, self.case.length), dtype=bool)
        for rank, rows in enumerate(self.positions):
            for source, keys in enumerate(self.positions):
                if skip and self.case.is_causal and source > rank:
                    continue
                row_label = rows if row_labels is None else row_labels(rank)
                key_label = keys if key_labels is None else key_labels(rank, source)
                if len(row_label) != len(rows) or len(key_label) != len(keys):
                    return None
                whole[:, :, rows[:, None], keys] = sight(row_label, key_label)
        return whole

    def attend(
        self, multiplicity: Array, *, scale: float | None = None, key: Array | None = None, value: Array | None = None
    ) -> dict[str, Array]:
        """The output and lse under any multiplicity (heads, length, length), with another scale, keys or values."""
        key = self.inputs.key if key is None else key
        value = self.inputs.value if value is None else value
        used = self.scale if scale is None else scale
        out, lse = reference.attention(self.inputs.query, key, value, multiplicity, used)
        if self.dialect == "grouped-mean":
            out = out / len(self.pairs)
        return {"out": out, "lse": lse}

    def hops(self, rank: int) -> list[tuple[int, int]]:
        """Hop and source of the blocks in the order in which a ring brings them."""
        return [(hop, (rank - hop) % self.ranks) for hop in range(self.ranks)]


def summed(masks: Array) -> Array:
    """The multiplicity of masks (branches, heads, rows, keys)."""
    return masks.sum(axis=0, dtype=np.int64)


def by_head(array: Array, heads: int) -> Array:
    """(batch, length, heads or kv_heads, dim) to (batch, heads, length, dim)."""
    return np.repeat(array.swapaxes(1, 2), heads // array.shape[2], axis=1)
