"""A block too large for its scores to exist at once is computed in pieces: all of it, once, in as few as possible."""

from unittest.mock import patch

import pytest
import torch

from attention_gate.impls import block
from attention_gate.impls.schedule import gathering
from attention_gate.impls.scores import Scores
from attention_gate.impls.tiling import Branch, Layout
from attention_gate.impls.work import Work


def work_of(problems: int, queries: int, keys: int) -> Work:
    """Return work in which query i of each problem sees the first i + 1 keys, as far as there are so many."""
    reach = tuple(min(keys, query + 1) for query in range(queries))
    return Work(
        query_index=torch.zeros(problems, queries, dtype=torch.int64),
        key_index=torch.zeros(problems, keys, dtype=torch.int64),
        visible=torch.tensor(reach).expand(problems, queries),
        reach=reach,
        before=None,
        places=None,
        kept=None,
        rows=torch.zeros(problems * queries, dtype=torch.int64),
    )


@pytest.mark.parametrize("scores", [1, 5, 6, 7, 11, 12, 13, 59, 60, 61, 120, 10**6])
@pytest.mark.parametrize("batch", [0, 1, 2, 3])
@pytest.mark.parametrize(
    ("problems", "queries", "keys"), [(1, 1, 1), (2, 3, 1), (1, 10, 6), (4, 2, 6), (5, 10, 6), (3, 7, 2)]
)
def test_pieces_are_as_large_as_their_scores_may_be(
    problems: int, queries: int, keys: int, batch: int, scores: int
) -> None:
    with patch.object(block, "_SCORES_AT_A_TIME", scores):
        made = [(some, list(rows)) for some, rows in block._pieces(work_of(problems, queries, keys), batch)]
    count = torch.zeros(problems, queries, dtype=torch.int64)
    for some, pieces in made:
        for rows, seen in pieces:
            count[some, rows] += 1
            assert seen == min(keys, range(queries)[rows][-1] + 1), "the keys that some of these queries see"
    assert (count == 1).all(), "each query of each problem once"

    def largest(numbers: list[slice], whole: int) -> int:
        sizes = [len(range(whole)[some]) for some in numbers]
        assert all(size == max(sizes) for size in sizes[:-1])
        return max(sizes)

    rows = largest([rows for rows, _ in made[0][1]], queries)
    some = largest([some for some, _ in made], problems)
    samples = max(1, batch)
    if rows * some > 1:
        assert samples * some * rows * keys <= scores, "no more scores at a time than may exist"
    if rows < queries:
        assert samples * (rows + 1) * keys > scores, "no fewer rows at a time than there is room for"
    elif some < problems:
        assert samples * (some + 1) * rows * keys > scores, "no fewer problems at a time than there is room for"


@pytest.mark.parametrize("scores", [1, 9, 40, 200])
def test_no_more_scores_exist_than_may_at_a_time(scores: int) -> None:
    """Neither forward nor backward, of several batches and heads of a sequence that is longer than both."""
    batch, length, heads = 3, 19, 2
    layout = Layout(length, 1, 0, heads, heads, (Branch(length, 1),), True)
    (work,) = gathering(layout, torch.device("cpu")).works
    query, key, value, grad_out = torch.randn(4, batch, length * heads, 4)
    sizes = []
    exponential = torch.Tensor.exp_

    def watched(tensor: torch.Tensor) -> torch.Tensor:
        sizes.append(tensor.numel())
        return exponential(tensor)

    with patch.object(block, "_SCORES_AT_A_TIME", scores), patch.object(torch.Tensor, "exp_", watched):
        out, lse = block.attend_block(query, key, value, work, Scores(0.5))
        assert max(sizes) <= max(scores, batch * length), "one row of each batch at least"
        count = len(sizes)
        grads = torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
        delta = (out * grad_out).sum(-1)
        block.attend_block_backward(query, key, value, grad_out, lse, delta, grads, work, Scores(0.5))
    assert sizes[count:] == sizes[:count], "the backward pass takes the same pieces"
