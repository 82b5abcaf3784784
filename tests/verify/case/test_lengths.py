"""The same case with other lengths: what is dense stays dense, documents and queries are cut or grow at their end."""

import pytest

from attention_gate import Case
from attention_gate.verify.case.lengths import (
    over,
    with_documents,
    with_joint,
    with_length,
    with_one_row_after,
    with_queries,
    without_rows_after,
)

DENSE = Case(length=7, segment_lengths=(7,))
PACKED = DENSE.replace(document_lengths=(3, 2), query_length=6, query_lengths=(2, 3))


def test_a_whole_branch_stays_whole_and_others_stay_as_they_are():
    case = DENSE.replace(segment_lengths=(7, 3), dilation_rates=(1, 2))
    assert with_length(case, 12).segment_lengths == (12, 3)
    assert with_length(case, 0).segment_lengths == (1, 3)


def test_a_length_that_the_ranks_cannot_share_equally_is_passed():
    case = DENSE.replace(world_size=7)
    assert not with_length(case, 14).pass_length
    assert with_length(case, 15).pass_length
    assert over(case, 6, 3) == Case(world_size=3, length=6, segment_lengths=(6,))
    assert over(case, 6, 4, (1, 2)).group == (1, 2)
    assert over(case, 7, 2).pass_length


@pytest.mark.parametrize(
    ("length", "documents", "queries", "of_queries"),
    [(4, (2, 0), 3, (2, 0)), (2, (0, 0), 1, (0, 0)), (9, (3, 4), 8, (2, 5))],
)
def test_documents_and_their_queries_are_cut_or_grow_before_the_rows_after_them(length, documents, queries, of_queries):
    case = with_length(PACKED, length)
    assert (case.document_lengths, case.query_length, case.query_lengths) == (documents, queries, of_queries)


def test_a_single_query_and_none_at_all_stay_so():
    assert [with_length(with_queries(DENSE, count), 3).query_length for count in (0, 1, 6)] == [0, 1, 2]


def test_queries_of_documents_add_up_to_no_more_than_there_are():
    assert with_queries(PACKED, 4).query_lengths == (2, 1)
    assert with_queries(PACKED, None) == PACKED.replace(query_length=None, query_lengths=None)
    assert with_queries(PACKED.replace(query_length=None, query_lengths=None), 9).query_lengths == (3, 4)


def test_rows_that_every_rank_has_make_the_dense_branch_longer():
    case = with_joint(DENSE, ("rear", 3))
    assert case.segment_lengths == (10,)
    assert case.is_dense
    assert with_joint(case, None) == DENSE
    assert with_length(case, 2).segment_lengths == (5,)


def test_no_rows_need_come_after_the_documents():
    case = without_rows_after(PACKED)
    assert (case.document_lengths, case.query_lengths) == ((3, 4), (2, 4))
    assert (case.length, case.query_length) == (7, 6)
    assert without_rows_after(case) == case
    assert without_rows_after(DENSE) == DENSE
    assert with_one_row_after(PACKED).length == with_one_row_after(PACKED).segment_lengths[0] == 6
    assert with_one_row_after(DENSE) == DENSE


def test_documents_can_be_left_out():
    assert with_documents(PACKED, None) == DENSE.replace(query_length=6)
    assert with_documents(PACKED, (4,)).query_lengths == (2,)
