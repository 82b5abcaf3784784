"""The layout by document: every row once, as many on each rank, even work, and right results by the gate."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import attention_gate
from attention_gate.impls import document_zigzag
from attention_gate.impls.document_order import document_parts
from attention_gate.impls.robust import attend
from attention_gate.impls.tiling import Branch, Document, Layout, needed_rows
from attention_gate.verify.target.layouts import document_zigzag as of_the_gate
from tests.impls.document_balance import by_document, contiguous, imbalance, packs, pairs, travelling

PACKS = [(24,), (5, 0, 7, 1, 11), (1,) * 9, (3, 3), (0,), (), (2, 30, 4), (16, 16)]


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("lengths", PACKS, ids=str)
@pytest.mark.parametrize("left_over", [0, 5])
def test_every_row_has_one_owner_and_ranks_have_as_many(ranks: int, lengths: tuple[int, ...], left_over: int) -> None:
    total = sum(lengths) + left_over
    owned = [document_zigzag(rank, ranks, lengths, total) for rank in range(ranks)]
    assert sorted(row for rows in owned for row in rows) == list(range(total))
    counts = [len(rows) for rows in owned]
    assert max(counts) - min(counts) <= 1
    assert owned == [of_the_gate(rank, ranks, total, lengths).tolist() for rank in range(ranks)]


def test_a_document_that_the_parts_divide_gives_every_rank_the_same_work() -> None:
    """L (L + 1) / 2p pairs on each."""
    lengths = (48, 16, 80)
    assert pairs(by_document(lengths, 4), lengths) == [sum(n * (n + 1) // 8 for n in lengths)] * 4


def test_work_is_balanced_and_that_costs_rows() -> None:
    for name, lengths in packs().items():
        before, after = contiguous(lengths, 8), by_document(lengths, 8)
        assert imbalance(pairs(after, lengths)) < 1.002, name
        assert imbalance(pairs(before, lengths)) >= 0.999
        assert travelling(after, lengths) >= travelling(before, lengths), name
    lengths = packs()["1 document"]
    assert travelling(by_document(lengths, 8), lengths) == pytest.approx(0.75 * 32768 * 7)
    assert travelling(contiguous(lengths, 8), lengths) == pytest.approx(0.5 * 32768 * 7)


@pytest.mark.parametrize("make", [contiguous, by_document])
@pytest.mark.parametrize("lengths", [(13, 4, 0, 7), (24,), (1, 22, 1)], ids=str)
def test_the_rows_that_travel_are_those_of_the_plan(make: object, lengths: tuple[int, ...]) -> None:
    starts = np.cumsum([0, *lengths])
    documents = tuple(Document(int(first), n, int(first), n) for first, n in zip(starts, lengths, strict=False))
    ranks, total = 3, sum(lengths)
    layout = Layout(
        total, ranks, 0, 1, 1, (Branch(total, 1),), True, documents=documents, by_document=make is by_document
    )
    marked = sum(
        needed_rows(layout, destination, source).count(1)
        for destination in range(ranks)
        for source in range(ranks)
        if destination != source
    )
    assert marked == travelling(make(lengths, ranks), lengths)  # type: ignore[operator]


def test_parts_that_go_on_from_each_other_stay_in_order() -> None:
    assert document_parts((8, 4), 12, 2) == (
        (range(2), range(6, 8), range(8, 9), range(11, 12)),
        (range(2, 4), range(4, 6), range(9, 10), range(10, 11)),
    )


def test_the_layout_needs_documents_and_as_many_queries_as_keys() -> None:
    query = key = value = torch.ones(1, 4, 1, 1)
    dense = {"segment_lengths": [4], "dilation_rates": [1], "layout": "document-zigzag"}
    with pytest.raises(ValueError, match="shares each document by itself, and document_lengths are not given"):
        attend(query, key, value, **dense)
    with pytest.raises(ValueError, match="takes as many queries as keys, and query_lengths is given"):
        attend(query, key, value, **dense, document_lengths=[4], query_lengths=[4])
    with pytest.raises(ValueError, match="not one of 'contiguous', 'zigzag', 'document-zigzag'"):
        attend(query, key, value, **dense | {"layout": "zag"})


@pytest.mark.parametrize("name", ["robust", "collective"])
def test_both_implementations_conform_in_it(name: str) -> None:
    checks = ["forward", "lse", "gradients", "schedules", "traffic", "refusals"]
    target = f"tests.impls.document_zigzag_targets:{name}"
    report = attention_gate.check(target, profile="quick", checks=checks, world_sizes=[1, 2, 3])
    assert report.verdict == "pass", attention_gate.text(report)
