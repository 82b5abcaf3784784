"""Which rows a rank owns where each packed document is shared by itself: even work under a causal mask.

Each document is cut into 2p parts of nearly one length. Rank r has parts r and 2p - 1 - r of each: early rows, which
see few keys, and late ones, which see many. The rows by which some parts are longer go to the ranks in turn, from
document to document, so that no rank has more than one row more than another.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache


def document_zigzag(
    rank: int, world_size: int, document_lengths: Sequence[int], sequence_length: int | None = None
) -> list[int]:
    """Return the positions of the rows that a rank passes with `layout="document-zigzag"`, in their order.

        rows = document_zigzag(rank, world_size, [5000, 1200, 1992])
        out = attend(query[:, rows], key[:, rows], value[:, rows], document_lengths=[5000, 1200, 1992], …)

    Rows after the last document, of which a longer `sequence_length` leaves some, are shared like one document more.
    """
    length = sum(document_lengths) if sequence_length is None else sequence_length
    parts = document_parts(tuple(document_lengths), length, world_size)[rank]
    return [position for rows in parts for position in rows]


@lru_cache(maxsize=64)
def document_parts(
    document_lengths: tuple[int, ...], sequence_length: int, world_size: int
) -> tuple[tuple[range, ...], ...]:
    """Return for each rank the contiguous parts that it owns, in the order of its rows, none of them empty."""
    owned: list[list[range]] = [[] for _ in range(world_size)]
    first = turn = 0
    for length in (*document_lengths, sequence_length - sum(document_lengths)):
        parts = list(_parts(first, length, world_size, turn))
        for rank, mine in enumerate(owned):
            mine += [part for part in (parts[rank], parts[-1 - rank]) if part]
        first, turn = first + length, turn + length
    return tuple(tuple(mine) for mine in owned)


def _parts(first: int, length: int, world_size: int, turn: int) -> Iterator[range]:
    """Yield the 2p parts of a document; of those a row longer there is one for each rank from `turn` on."""
    size, longer = divmod(length, 2 * world_size)
    extra = [0] * (2 * world_size)
    for number in range(longer):
        rank = (turn + number) % world_size
        extra[rank if number < world_size else -1 - rank] = 1
    for more in extra:
        yield range(first, first + size + more)
        first += size + more
