"""What the optional terms of a case may be, one by one and beside each other."""

from __future__ import annotations

import sys
from typing import Any

from attention_gate.verify.case.styles import JOINT_PLACES, MASK_NAMES, SINKS
from attention_gate.verify.target.choices import one_of


def check_terms(case: Any) -> None:
    """Raise ValueError for the first optional term that is none, or that no case has beside the rest.

    ``case`` is a Case on its way to being one.
    """
    if case.window is not None and (
        not isinstance(case.window, tuple)
        or len(case.window) != 2
        or any(bound is not None and not _is_count(bound) for bound in case.window)
    ):
        raise ValueError(f"Case.window is {case.window!r}; it must be None or two integers of at least 0, or None")
    if case.query_length is not None and not _is_count(case.query_length):
        raise ValueError(f"Case.query_length is {case.query_length!r}; it must be None or an integer of at least 0")
    _check_lengths("document_lengths", case.document_lengths, case.length, "the length")
    _check_lengths("query_lengths", case.query_lengths, case.queries, "the number of queries")
    if case.mask is not None:
        one_of("Case.mask", case.mask, MASK_NAMES)
    if case.softcap is not None and not (type(case.softcap) is float and 0 < case.softcap <= sys.float_info.max):
        raise ValueError(f"Case.softcap is {case.softcap!r}; it must be None or a finite number above 0")
    if type(case.slopes) is not bool:
        raise ValueError(f"Case.slopes is {case.slopes!r}; it must be True or False")
    if case.sink is not None:
        one_of("Case.sink", case.sink, SINKS)
    if case.joint is not None:
        if not isinstance(case.joint, tuple) or len(case.joint) != 2 or not _is_count(case.joint[1]):
            raise ValueError(f"Case.joint is {case.joint!r}; it must be None or a place and a number of rows")
        one_of("the place of Case.joint", case.joint[0], JOINT_PLACES)
    if case.interleave is not None and not (_is_count(case.interleave) and case.interleave):
        raise ValueError(f"Case.interleave is {case.interleave!r}; it must be None or a positive integer")
    if case.interleave is not None and not case.pass_length:
        raise ValueError(
            f"Case.pass_length is False beside interleave={case.interleave}: blocks make shards unequal; set it to True"
        )
    _check_together(case)


def _check_together(case: Any) -> None:
    documents, of_queries = case.document_lengths, case.query_lengths
    if (of_queries is None) != (documents is None or case.query_length is None):
        raise ValueError(
            f"Case.query_lengths is {of_queries}; there must be one for each document where query_length is given, "
            f"which is {case.query_length} beside the document_lengths {documents}"
        )
    if of_queries is not None and documents is not None and len(of_queries) != len(documents):
        raise ValueError(f"Case.query_lengths {of_queries} and document_lengths {documents} must be as many")
    if case.joint is not None and documents is not None:
        raise ValueError(f"Case.joint is {case.joint} beside document_lengths; joint rows belong to no document")
    as_many = case.queries == case.keys and (of_queries is None or of_queries == documents)
    if not as_many and not case.is_dense:
        raise ValueError(
            f"Case.segment_lengths {case.segment_lengths} with dilation_rates {case.dilation_rates}: {case.queries} "
            f"queries of {case.keys} keys need the dense branch ({max(case.keys, 1)}, 1)"
        )
    pairs = [(case.queries, case.keys)]
    if documents is not None:
        pairs = list(zip(of_queries or documents, documents, strict=True))
    if case.mask is not None and any(q > k for q, k in pairs):
        raise ValueError(f"Case.mask is {case.mask!r}; a mask takes no more queries than keys, but there are {pairs}")


def _check_lengths(name: str, lengths: tuple[int, ...] | None, most: int, words: str) -> None:
    if lengths is not None and (
        not isinstance(lengths, tuple) or not all(_is_count(length) for length in lengths) or sum(lengths) > most
    ):
        raise ValueError(
            f"Case.{name} is {lengths!r}; it must be None or a tuple of integers of at least 0 that add "
            f"up to no more than {words}, {most}"
        )


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 0
