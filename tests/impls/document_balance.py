"""What a layout by document gains and costs: pairs of query and key on the busiest rank, and rows that travel.

python -m tests.impls.document_balance          eight packs of documents, 8 ranks, causal, before and after
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from attention_gate.impls.document_order import document_parts
from attention_gate.impls.tiling import part

Shares = list[list[range]]


def contiguous(lengths: Sequence[int], ranks: int) -> Shares:
    """The rows of each rank's contiguous shard, cut where documents end."""
    shares: Shares = []
    for rank in range(ranks):
        owned, first = part(sum(lengths), ranks, rank), 0
        shares.append([])
        for length in lengths:
            both = range(max(first, owned.start), min(first + length, owned.stop))
            shares[-1] += [both] if both else []
            first += length
    return shares


def by_document(lengths: Sequence[int], ranks: int) -> Shares:
    """The rows of each rank in the layout by document."""
    return [list(parts) for parts in document_parts(tuple(lengths), sum(lengths), ranks)]


def pairs(shares: Shares, lengths: Sequence[int]) -> list[int]:
    """How many pairs of query and key each rank computes under a causal mask."""
    starts = _starts(lengths)
    return [
        sum(sum(row - starts[row] + 1 for row in (rows.start, rows.stop - 1)) * len(rows) // 2 for rows in mine)
        for mine in shares
    ]


def travelling(shares: Shares, lengths: Sequence[int]) -> int:
    """How many rows of keys come to all ranks together: those of others up to the last query of each document."""
    starts = _starts(lengths)
    total = 0
    for mine in shares:
        last = {starts[rows.start]: rows.stop for rows in mine}  # parts of a document come in their order
        total += sum(stop - start for start, stop in last.items()) - sum(map(len, mine))
    return total


def _starts(lengths: Sequence[int]) -> list[int]:
    """The first row of each row's document."""
    found: list[int] = []
    for length in lengths:
        found += [len(found)] * length
    return found


def imbalance(of_ranks: Sequence[int]) -> float:
    """The busiest rank's share beside the mean."""
    return max(of_ranks) * len(of_ranks) / sum(of_ranks)


def packs() -> dict[str, list[int]]:
    """Packs of 32,768 rows, from one document to many short ones."""
    source, rows = random.Random(0), 32768
    unequal = sorted(source.sample(range(64, rows), 15))
    found = {
        "1 document": [rows],
        "2 equal": [rows // 2] * 2,
        "1 long, 8 short": [rows // 2, *[rows // 16] * 8],
        "8 short, 1 long": [*[rows // 16] * 8, rows // 2],
        "16 unequal": [b - a for a, b in zip([0, *unequal], [*unequal, rows], strict=True)],
        "16 equal": [rows // 16] * 16,
        "128 equal": [rows // 128] * 128,
        "2,048 of 16 rows": [16] * 2048,
    }
    assert all(sum(lengths) == rows for lengths in found.values())
    return found


def main(ranks: int = 8) -> None:
    """Print the table."""
    print("| documents | busiest rank, contiguous | by document | rows that travel, contiguous | by document |")
    print("|---|---|---|---|---|")
    for name, lengths in packs().items():
        before, after = contiguous(lengths, ranks), by_document(lengths, ranks)
        work = [f"{imbalance(pairs(shares, lengths)):.3f}" for shares in (before, after)]
        rows = [f"{travelling(shares, lengths):,}" for shares in (before, after)]
        print(f"| {name} | {work[0]} | {work[1]} | {rows[0]} | {rows[1]} |")


if __name__ == "__main__":
    main()
