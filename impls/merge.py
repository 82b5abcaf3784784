"""The online softmax: attention to two disjoint sets of keys is the mean of both, weighted by their denominators."""

import torch
from torch import Tensor


def merge_rows(out: Tensor, lse: Tensor, rows: Tensor, block_out: Tensor, block_lse: Tensor) -> None:
    """Merge a block's attention into the `rows` of the running result, in place.

    `out` (batch, all_rows, value_dim) and `lse` (batch, all_rows) are the running result, 0 and -inf at first; `rows`
    holds no row twice; `block_out` (batch, rows, value_dim) and `block_lse` (batch, rows) are the block's.
    """
    running_out, running_lse = out.index_select(1, rows), lse.index_select(1, rows)
    # The weights are sigmoids of the gap: no overflow at any gap, and their sum is 1 whatever the size of the lse.
    # Two sides that weigh nothing would have a gap of NaN, so the block's weight is set.
    gap = (block_lse - running_lse).masked_fill_(block_lse.isneginf(), float("-inf")).unsqueeze(-1)
    merged = running_out.mul_(torch.sigmoid(-gap)).addcmul_(block_out, torch.sigmoid(gap))
    out.index_copy_(1, rows, merged)
    lse.index_copy_(1, rows, torch.logaddexp(running_lse, block_lse))
