"""The same case with other lengths: of the sequence, of the queries, of the rows that every rank has.

A branch that is the whole sequence stays so, and documents and their queries are cut off or made longer at their end.
"""

from __future__ import annotations

from attention_gate.verify.case.case import Case


def with_length(case: Case, length: int) -> Case:
    """The case with a longer or shorter sequence, and as many queries more or less; a single query stays one."""
    more = length - case.length
    queries = case.query_length
    if queries is not None and queries > 1:
        queries = max(0, queries + more)
    documents = case.document_lengths and _changed(case.document_lengths, length, more)
    return case.replace(
        length=length,
        pass_length=case.pass_length or bool(length % case.shards),
        segment_lengths=_segments(case, length + case.joint_rows),
        document_lengths=documents,
        query_length=queries,
        query_lengths=_queries_of_documents(case, queries),
    )


def over(case: Case, length: int, world_size: int, group: tuple[int, ...] | None = None) -> Case:
    """The case with that length, over other ranks."""
    split = with_length(case.replace(pass_length=True), length).replace(world_size=world_size, group=group)
    return split.replace(pass_length=case.pass_length or bool(length % split.shards))


def with_queries(case: Case, queries: int | None) -> Case:
    """The case with another number of queries; None is as many as the sequence has rows."""
    return case.replace(query_length=queries, query_lengths=_queries_of_documents(case, queries))


def with_joint(case: Case, joint: tuple[str, int] | None) -> Case:
    """The case with other rows, or none, that every rank has."""
    return case.replace(joint=joint, segment_lengths=_segments(case, case.length + (joint[1] if joint else 0)))


def without_rows_after(case: Case) -> Case:
    """The case with its documents, and their queries, so long that no row comes after them all."""
    documents, queries = case.document_lengths, case.query_lengths
    if not documents:
        return case
    return case.replace(
        document_lengths=(*documents[:-1], documents[-1] + case.length - sum(documents)),
        query_lengths=queries and (*queries[:-1], queries[-1] + case.queries - sum(queries)),
    )


def with_one_row_after(case: Case) -> Case:
    """The case with a single row after its documents, where there are more."""
    length = sum(case.document_lengths or ()) + 1
    if case.document_lengths is None or length >= case.length:
        return case
    return case.replace(
        length=length,
        pass_length=case.pass_length or bool(length % case.shards),
        segment_lengths=_segments(case, length + case.joint_rows),
    )


def with_documents(case: Case, documents: tuple[int, ...] | None) -> Case:
    """The case with other documents, or none, whose queries are as many as before in all."""
    queries = None
    if documents is not None and case.query_length is not None:
        kept = [*(case.query_lengths or ()), *(0 for _ in documents)]
        queries = tuple(kept[: len(documents)])
    return case.replace(document_lengths=documents, query_lengths=queries)


def _segments(case: Case, keys: int) -> tuple[int, ...]:
    whole = (max(case.keys, 1), 1)
    return tuple(
        max(keys, 1) if branch == whole else branch[0]
        for branch in zip(case.segment_lengths, case.dilation_rates, strict=True)
    )


def _queries_of_documents(case: Case, queries: int | None) -> tuple[int, ...] | None:
    if queries is None or case.document_lengths is None:
        return None
    before = case.document_lengths if case.query_lengths is None else case.query_lengths
    return _changed(before, queries, queries - case.queries)


def _changed(documents: tuple[int, ...], length: int, more: int) -> tuple[int, ...]:
    """The documents with their end cut off, or the last one longer; as many rows as before come after them all."""
    after = max(0, length - more - sum(documents))
    kept: list[int] = []
    for document in documents:
        kept.append(min(document, max(0, length - after - sum(kept))))
    if more > 0 and kept:
        kept[-1] += more
    return tuple(kept)
