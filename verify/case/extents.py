"""How large a case is: each extent small, or past the tile from which on real kernels take another path.

Kernels choose their path by the rows of a shard (tiles of 32 to 256), by heads and heads per kv head (folded into
rows of 16), by head_dim and value_dim (64 to 256, odd ones padded) and by the batch.
"""

from __future__ import annotations

from attention_gate.verify.case.case import Case

#: The largest of each extent that counts as small.
LARGEST_SMALL = {"rows": 32, "heads": 9, "heads per kv head": 9, "head_dim": 8, "value_dim": 8, "batch": 2}

#: Tiles of rows; a shard past one has more rows than it.
ROW_TILES = (32, 64, 128, 256)

#: Heads past a tile, with an equal number of kv heads; and numbers of query heads and of kv heads.
MANY_HEADS = (17, 18, 20, 24, 32, 33, 40, 64, 65, 128)
MANY_GROUPED = ((18, 9), (20, 5), (24, 8), (32, 8), (33, 11), (40, 8), (64, 8), (64, 32), (128, 16))
LARGE_GROUPS = ((17, 1), (18, 1), (20, 1), (32, 1), (34, 2), (33, 1), (64, 2), (65, 1), (128, 1), (128, 2), (136, 8))

#: Dimensions of a head past a tile, odd ones among them.
WIDE = (65, 72, 80, 96, 100, 128, 129, 160, 192, 256)

#: Scores, batch * heads * length ** 2, that a case may have: the oracle's time grows with them.
MOST_SCORES = 600_000

#: The same past a tile in all of rows, heads and batch: the fewest that there are.
FEWEST_HEADS = 20


def rows_of(case: Case) -> int:
    """The rows of the largest shard."""
    return -(-case.length // case.shards)


def extents_of(case: Case) -> dict[str, str]:
    """The options of a case that say how large it is, by axis, as attention_gate.verify.case.options names them."""
    group = case.heads // case.kv_heads
    if group > LARGEST_SMALL["heads per kv head"]:
        heads = "large groups"
    elif case.heads > LARGEST_SMALL["heads"]:
        heads = "many" if group == 1 else "many grouped"
    else:
        heads = "single" if case.heads == 1 else "several" if group == 1 else "grouped"
    wide = case.value_dim > LARGEST_SMALL["value_dim"]
    return {
        "rows": "tiles" if rows_of(case) > LARGEST_SMALL["rows"] else "small",
        "heads": heads,
        "head_dim": "wide" if case.head_dim > LARGEST_SMALL["head_dim"] else "small",
        "value_dim": "same" if case.value_dim == case.head_dim else "wide" if wide else "different",
        "batch": "many" if case.batch > LARGEST_SMALL["batch"] else "few",
    }
