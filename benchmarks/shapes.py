"""Cases made regular, so that fused kernels take nearly all of them, however small."""

from attention_gate import Case


def regular(case: Case) -> Case:
    """Return the case with powers of two for shards, segments, rates and heads, and widths that kernels take."""
    rows = _power(-(-case.length // case.shards))
    if not case.length:
        return case
    heads = _power(case.heads)
    lengths = tuple(_power(length) for length in case.segment_lengths)
    rates = tuple(min(_power(rate), length, rows) for rate, length in zip(case.dilation_rates, lengths, strict=True))
    return case.replace(
        length=rows * case.shards,
        heads=heads,
        kv_heads=min(heads, _power(case.kv_heads)),
        head_dim=-(-case.head_dim // 8) * 8,
        value_dim=-(-case.value_dim // 8) * 8,
        segment_lengths=lengths,
        dilation_rates=rates,
    )


def dense(case: Case) -> Case:
    """Return the case as one dense branch over even parts."""
    case = regular(case)
    length = -(-case.length // (2 * case.shards)) * 2 * case.shards
    return case.replace(length=length, segment_lengths=(max(1, length),), dilation_rates=(1,))


def wide(case: Case) -> Case:
    """Return the case made regular, of a width that every library's kernels take."""
    return regular(case).replace(head_dim=64, value_dim=64)


def wide_dense(case: Case) -> Case:
    """Return the case as one dense branch, of any length, of a width that every library's kernels take."""
    if not case.length:
        return case
    heads = _power(case.heads)
    return case.replace(
        heads=heads,
        kv_heads=min(heads, _power(case.kv_heads)),
        head_dim=64,
        value_dim=64,
        segment_lengths=(case.length,),
        dilation_rates=(1,),
    )


def _power(number: int) -> int:
    return 1 << max(0, number - 1).bit_length()
