"""Which rows of a long case are judged: those where mistakes live, and random ones.

Mistakes live at borders: of segments, documents, shards, tiles and the sequence, and where the number of an element
passes 2^31 or 2^32, past which an index of 32 bits is wrong. Each offset class of each branch is there. Of the random
rows the report states what escapes them: where a fraction f of all rows is wrong, m rows drawn without regard to which
miss all of them with a probability of at most (1 - f)^m.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from attention_gate.verify.case.case import Case
from attention_gate.verify.long.long_cases import keys_of_a_query, within_window

#: Random queries: of 0.1 % wrong rows all escape with a probability of 0.1 %.
RANDOM_QUERIES = 6905

#: Random keys, as far as their cost allows; a key costs what all queries cost that see it.
RANDOM_KEYS = 64

#: Scores that the keys of one part may cost.
KEY_SCORES = 2e8

#: Kernels take rows in tiles of these sizes.
TILES = (64, 128, 256)

#: Of many segments and documents the first ones, the last ones and some between.
_MANY = 6


@dataclass(frozen=True)
class Chosen:
    """Positions of queries and of keys, ascending; ``random`` says how many of each were drawn at random."""

    queries: np.ndarray
    keys: np.ndarray
    random: tuple[int, int]

    def escapes(self, fraction: float) -> float:
        """The probability that wrong queries, that fraction of all, are all missed by the random ones."""
        return (1.0 - fraction) ** self.random[0]


def choose(
    case: Case,
    positions: Sequence[np.ndarray],
    seed: int = 0,
    *,
    key_scores: float = KEY_SCORES,
    random_queries: int = RANDOM_QUERIES,
) -> Chosen:
    """The rows of a case whose shards own these positions."""
    generator = np.random.default_rng([seed, case.length])
    drawn = np.unique(generator.integers(0, max(1, case.length), random_queries))[: case.length]
    special = special_rows(case, positions)
    cost = keys_of_a_query(case) * case.heads * case.batch
    some = generator.permutation(special)[: 2 * RANDOM_KEYS]
    # In dense attention only the last keys of a causal mask cost little.
    late = case.length - 1 - generator.integers(0, max(1, case.length >> 12), RANDOM_KEYS // 4)
    wanted = [*late, *some, *generator.integers(0, max(1, case.length), RANDOM_KEYS)]
    keys, spent, random = [], 0.0, 0
    for number, key in enumerate(map(int, wanted)):
        price = float(queries_that_see(case, key)) * cost
        if 0 <= key < case.length and spent + price <= key_scores:
            keys.append(key)
            spent += price
            random += number >= len(late) + len(some)
    drawn = drawn[drawn < case.length]
    return Chosen(np.union1d(drawn, special), np.unique(np.array(keys, dtype=np.int64)), (len(drawn), random))


def queries_that_see(case: Case, key: int) -> int:
    """The most queries of a head that see a key, each branch counted where some head selects the key."""
    seen = 0
    for w, r in zip(case.segment_lengths, case.dilation_rates, strict=True):
        if key % w % r < case.heads:
            first = key // w * w
            last = min(case.length, first + w)
            seen += -(-(last - (key if case.is_causal else first)) // r)
    return max(1, within_window(case, seen))


def special_rows(case: Case, positions: Sequence[np.ndarray]) -> np.ndarray:
    """Positions at borders, on both sides of each."""
    n = case.length
    borders = {0, n}
    for w in case.segment_lengths:
        count = -(-n // w)
        borders |= {k * w for k in _some(count + 1)}
    ends = np.cumsum(case.document_lengths or ())
    borders |= {int(ends[k]) for k in _some(len(ends))}
    rows = {row for border in borders for row in (border - 1, border)}
    for w, r in zip(case.segment_lengths, case.dilation_rates, strict=True):
        last = max(0, (n - 1) // w) * w
        rows |= {start + offset for start in (0, last) for offset in range(min(r, case.heads + 1, w))}
    for owned in positions:
        if len(owned):
            rows |= {int(owned[k]) for k in _local_borders(case, len(owned))}
    rows |= set(_past_32_bits(case, n))
    return np.array(sorted(row for row in rows if 0 <= row < n), dtype=np.int64)


def _local_borders(case: Case, rows: int) -> set[int]:
    """Rows of a shard: its ends, both sides of its first and last tiles, and of where its elements pass 32 bits."""
    found = {0, rows - 1}
    for tile in TILES:
        for border in (tile, rows // tile * tile):
            found |= {border - 1, border}
    return {row for row in found | set(_past_32_bits(case, rows)) if 0 <= row < rows}


def _past_32_bits(case: Case, rows: int) -> list[int]:
    """Rows on both sides of the 2^31st and the 2^32nd element of a tensor of so many rows."""
    found = []
    widths = {case.heads * case.head_dim, case.kv_heads * case.head_dim, case.heads * case.value_dim, case.heads, 1}
    for width in widths:
        for limit in (31, 32):
            border = (1 << limit) // width
            for batch in range(case.batch):  # batch rows lie one behind the other
                row = border - batch * rows
                found += [row - 1, row, row + 1] if -1 <= row <= rows else []
    return found


def _some(count: int) -> set[int]:
    """The first, the last and some numbers between, of 0 … count - 1."""
    if count <= 2 * _MANY:
        return set(range(count))
    return {*range(_MANY), *range(count - _MANY, count), *(math.floor(count * k / 7) for k in range(1, 7))}
