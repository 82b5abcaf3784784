"""Twenty patterns of documents and windows over 24 rows: little of them must travel, depending on where shards end."""

from attention_gate.verify.case.case import Case

LENGTH = 24

#: Document lengths and window: on the ends of the shards of 2, 3 and 4 ranks, one row off, inside, across, left over.
PATTERNS = [
    (None, (0, 0)),
    (None, (3, 0)),
    (None, (5, None)),
    (None, (6, 0)),
    (None, (8, 8)),
    (None, (13, 0)),
    (None, (None, 2)),
    (None, (2, 2)),
    ((24,), None),
    ((12, 12), None),
    ((6, 6, 6, 6), None),
    ((8, 8, 8), None),
    ((7, 5, 7, 5), None),
    ((11, 13), None),
    ((13, 11), None),
    ((2, 20, 2), None),
    ((3, 0, 9, 1, 6), None),
    ((1,) * 24, None),
    ((7, 10, 7), (4, 0)),
    ((5, 14, 3), (2, 3)),
]


def pattern(number: int, size: int, *, is_causal: bool = False) -> Case:
    """A case of a pattern, with grouped heads."""
    documents, window = PATTERNS[number]
    return Case(
        world_size=size,
        length=LENGTH,
        pass_length=True,
        heads=4,
        kv_heads=2,
        head_dim=3,
        value_dim=5,
        segment_lengths=(LENGTH,),
        is_causal=is_causal,
        document_lengths=documents,
        window=window,
        dtype="float32",
    )
