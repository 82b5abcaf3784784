"""Who sees whom: the masks of the branches, and their sum, the multiplicity."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from attention_gate.reference._branches import Branch, selected

ABSENT = -1
"""The offset of a head that takes no part in a branch: no position leaves this remainder."""


def _longnet(head: int, heads: int, index: int, rates: list[int]) -> int:
    return head % rates[index]


def _torchscale(head: int, heads: int, index: int, rates: list[int]) -> int:
    heads_per_offset = -(-heads // rates[index])
    return head // heads_per_offset


def _grouped_mean(head: int, heads: int, index: int, rates: list[int]) -> int:
    size, larger = divmod(heads, len(rates))
    first = index * size + min(index, larger)
    in_group = first <= head < first + size + (index < larger)
    return index % rates[index] if in_group else ABSENT


_OFFSETS: dict[str, Callable[[int, int, int, list[int]], int]] = {
    "longnet": _longnet,
    "torchscale": _torchscale,
    "grouped-mean": _grouped_mean,
}

DIALECTS = tuple(_OFFSETS)
"""The dialects by name. They differ in the offset of a head; `dilated_attention` says how else."""


def head_offsets(heads: int, branches: Sequence[Branch], dialect: str = "longnet") -> NDArray[np.int64]:
    """The offset of each head in each branch, -1 where the head takes no part in the branch.

        head_offsets(4, branches([6, 8], [2, 3]))                           # [[0, 1, 0, 1], [0, 1, 2, 0]]
        head_offsets(4, branches([6, 8], [2, 3]), dialect="torchscale")     # [[0, 0, 1, 1], [0, 0, 1, 1]]
        head_offsets(4, branches([6, 8], [2, 3]), dialect="grouped-mean")   # [[0, 0, -1, -1], [-1, -1, 1, 1]]

    `longnet`: head mod r (arXiv 2307.02486, "Multi-Head Dilated Attention"). `torchscale`: head // ceil(heads / r).
    `grouped-mean`: heads in consecutive groups, one per branch, the first heads mod branches groups one larger; each
    head of a group takes the index of its branch mod r. Returns int64 (branches, heads). Raises ValueError for an
    unknown dialect.
    """
    if dialect not in DIALECTS:
        raise ValueError(f"dialect must be one of {', '.join(map(repr, DIALECTS))}, got {dialect!r}")
    offset, rates = _OFFSETS[dialect], [branch.dilation_rate for branch in branches]
    table = [[offset(head, heads, index, rates) for head in range(heads)] for index in range(len(rates))]
    return np.array(table, dtype=np.int64).reshape(len(rates), heads)


def branch_masks(
    length: int, heads: int, branches: Sequence[Branch], is_causal: bool = False, dialect: str = "longnet"
) -> NDArray[np.bool_]:
    """Whether query i sees key j, branch by branch: both selected, in one segment and, if causal, j <= i.

        branch_masks(7, 2, branches([3, 7], [1, 2]), is_causal=True)[1, 0]   # head 0 in the branch (7, 2): (7, 7)

    Returns bool (branches, heads, length, length). Raises TypeError for a length, a count of heads or an is_causal that
    is none, ValueError for a negative length, less than one head or an unknown dialect.
    """
    _check_count("length", length, least=0)
    _check_count("heads", heads, least=1)
    if not isinstance(is_causal, (bool, np.bool_)):
        raise TypeError(f"is_causal must be True or False, got {is_causal!r}")
    position = np.arange(length)
    masks = np.empty((len(branches), heads, length, length), dtype=np.bool_)
    for mask, branch, offsets in zip(masks, branches, head_offsets(heads, branches, dialect), strict=True):
        segment = position // min(branch.segment_length, length + 1)
        chosen = selected(branch, offsets[:, None], length)
        mask[...] = chosen[:, :, None] & chosen[:, None, :] & (segment[:, None] == segment)
    if is_causal:
        masks &= position <= position[:, None]
    return masks


def multiplicity(
    length: int, heads: int, branches: Sequence[Branch], is_causal: bool = False, dialect: str = "longnet"
) -> NDArray[np.int64]:
    """M[h, i, j], the number of branches in which query i of head h sees key j.

        attention(query, key, value, multiplicity(7, 2, branches([3, 7], [1, 2])))

    A key seen in two branches counts twice: the sum of `branch_masks`, not their union. Returns int64 (heads, length,
    length); raises what `branch_masks` raises.
    """
    return branch_masks(length, heads, branches, is_causal, dialect).sum(axis=0, dtype=np.int64)


def _check_count(name: str, value: int, least: int) -> None:
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, at least {least}, got {value!r} ({type(value).__name__})")
    if value < least:
        raise ValueError(f"{name} must be an integer, at least {least}, got {value}")
