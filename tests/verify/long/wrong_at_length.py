"""Attentions that are right at short lengths, and wrong where only long ones come.

A row counts as WIDTH elements, as one of 32 heads of 128 counts 4096, so that rows that this machine can hold pass 2^31
elements. `python benchmarks/million.py` has the true width, at a million rows.
"""

import os

import torch
import torch.distributed as dist

from attention_gate import Target
from attention_gate.impls.robust import attend as right

WIDTH = int(os.environ.get("LONG_WIDTH", 1 << 20))


def first_row(query, sequence_length, group):
    """The position of this rank's first row."""
    if not dist.is_initialized():
        return 0
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    length = query.shape[1] * size if sequence_length is None else sequence_length
    return int(torch.tensor_split(torch.arange(length), size)[rank][:1].sum())


def spoiled(wrong):
    """The right attention, its output a hundredth too large in the rows that wrong(positions, options) marks."""

    def attend(query, key, value, *, sequence_length=None, group=None, return_lse=False, **options):
        first = first_row(query, sequence_length, group)
        positions = first + torch.arange(query.shape[1], device=query.device)
        given = {"sequence_length": sequence_length, "group": group, "return_lse": return_lse, **options}
        length = query.shape[1] if sequence_length is None and not dist.is_initialized() else sequence_length
        size = dist.get_world_size(group) if dist.is_initialized() else 1
        length = query.shape[1] * size if length is None else length
        result = right(query, key, value, **given)
        out, *rest = result if return_lse else (result,)
        out = out * (1.0 + 0.01 * wrong(positions, length, options).to(out.dtype))[None, :, None, None]
        return (out, *rest) if return_lse else out

    return attend


def target(attend):
    return Target(attend=attend, lse=True)


past_two_to_the_31 = target(spoiled(lambda at, length, options: at * WIDTH >= 1 << 31))
one_row_in_a_thousand = target(spoiled(lambda at, length, options: at * 2654435761 % (1 << 32) < (1 << 32) / 1000))
last_segment = target(
    spoiled(lambda at, length, options: at // (w := options["segment_lengths"][0]) == (length - 1) // w)
)


def wrapping(query, key, value, **options):
    """The row of a key is found by an offset of 32 bits, which begins again at 2^31."""
    rows = torch.arange(key.shape[1], device=key.device)
    found = rows * (2 * WIDTH) % (1 << 31) // (2 * WIDTH)
    return right(query, key[:, found], value[:, found], **options)


row_offset_wraps = target(wrapping)
