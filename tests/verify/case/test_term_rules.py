"""What no case has: terms that are none, and terms that do not go together, refused in words."""

import pytest

from attention_gate import Case

DENSE = {"length": 3, "segment_lengths": (3,)}


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"query_length": -1}, "Case.query_length is -1; it must be None or an integer of at least 0"),
        ({"query_length": True}, "Case.query_length is True; it must be None or an integer of at least 0"),
        ({"joint": "front"}, "Case.joint is 'front'; it must be None or a place and a number of rows"),
        ({"joint": ("front", -1)}, "Case.joint is ('front', -1); it must be None or a place and a number of rows"),
        ({"joint": ("middle", 1)}, "the place of Case.joint is 'middle'; it must be one of front, rear"),
        ({"interleave": 0, "pass_length": True}, "Case.interleave is 0; it must be None or a positive integer"),
        ({"interleave": 2}, "Case.pass_length is False beside interleave=2: blocks make shards unequal"),
        (
            {"document_lengths": (3,), "query_length": 2},
            "there must be one for each document where query_length is given, which is 2 beside the document_lengths",
        ),
        ({"query_lengths": (1,)}, "which is None beside the document_lengths None"),
        (
            {"document_lengths": (3,), "query_length": 2, "query_lengths": (1, 1)},
            "Case.query_lengths (1, 1) and document_lengths (3,) must be as many",
        ),
        (
            {"document_lengths": (3,), "query_length": 2, "query_lengths": (3,)},
            "add up to no more than the number of queries, 2",
        ),
        ({"document_lengths": (3,), "joint": ("front", 1)}, "joint rows belong to no document"),
        ({"query_length": 2, "segment_lengths": (2,)}, "2 queries of 3 keys need the dense branch (3, 1)"),
        ({"query_length": 2, "dilation_rates": (2,)}, "need the dense branch (3, 1)"),
        ({"joint": ("rear", 1)}, "3 queries of 4 keys need the dense branch (4, 1)"),
        ({"mask": "thirds", "query_length": 4}, "a mask takes no more queries than keys, but there are [(4, 3)]"),
        (
            {
                "mask": "thirds",
                "document_lengths": (1, 2),
                "query_length": 3,
                "query_lengths": (2, 1),
            },
            "a mask takes no more queries than keys, but there are [(2, 1), (1, 2)]",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_in_words(fields, words):
    with pytest.raises(ValueError, match="Case") as refused:
        Case(**(DENSE | fields))
    assert words in str(refused.value)


def test_as_many_queries_as_keys_go_with_any_branches():
    Case(length=3, segment_lengths=(2,), dilation_rates=(2,), query_length=3)
    Case(length=3, segment_lengths=(2,), dilation_rates=(2,), document_lengths=(1, 2))
