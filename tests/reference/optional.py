"""Random small problems with the optional terms, and their definition in plain loops, written from the prose:

Documents lie one after the other; the queries of a document are its last positions, and see keys of their own document
alone. A window of (left, right) lets a query see at most left positions back and right ahead, both ends included. A
mask is a question about head, query position and key position. A score is capped first and then made smaller by the
slope of its head times the distance. The sink is one more term in the denominator, of no value.
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from tests.reference import prose


@dataclass(frozen=True)
class Case:
    queries: int
    keys: int
    pairs: tuple[tuple[int, int], ...] | None = None  # None: dense
    documents: tuple[int, ...] | None = None
    query_documents: tuple[int, ...] | None = None
    window: tuple[int | None, int | None] | None = None
    is_causal: bool = False
    masked: bool = False
    softcap: float | None = None
    slopes: bool = False
    sink: float | None = None  # added to random sinks
    kv_heads: int = 1
    group: int = 1
    scale: float | None = None
    seed: int = 0

    @property
    def heads(self):
        return self.kv_heads * self.group

    def arrays(self):
        """query, key, value, grad_out."""
        generator = np.random.default_rng(self.seed)
        query = generator.normal(size=(2, self.queries, self.heads, 3))
        key = generator.normal(size=(2, self.keys, self.kv_heads, 3))
        value = generator.normal(size=(2, self.keys, self.kv_heads, 2)) + 1.0
        grad_out = generator.normal(size=(2, self.queries, self.heads, 2))
        return query, key, value, grad_out

    def per_head(self):
        """slopes and sink, (heads,) each, None where they are off."""
        generator = np.random.default_rng(self.seed + 1)
        slopes, sink = generator.normal(size=(2, self.heads))
        return slopes if self.slopes else None, None if self.sink is None else sink + self.sink

    def options(self):
        """The arguments of reference.dilated_attention besides the arrays."""
        slopes, sink = self.per_head()
        pairs = self.pairs or ((max(self.keys, 1), 1),)
        return {
            "segment_lengths": [w for w, _ in pairs],
            "dilation_rates": [r for _, r in pairs],
            "is_causal": self.is_causal,
            "scale": self.scale,
            "window": self.window,
            "document_lengths": self.documents,
            "query_lengths": self.query_documents,
            "mask": every_third_key_is_hidden if self.masked else None,
            "softcap": self.softcap,
            "slopes": slopes,
            "sink": sink,
        }


def every_third_key_is_hidden(head, x, j):
    """For head 0 of positions that are 0 modulo 3, for head 1 of those that are 1, and so on."""
    return (j + x + head) % 3 != 0


def places(case):
    """(document, position) of each query and of each key; a document of None belongs to nothing."""
    keys = [(None, j) for j in range(case.keys)]
    queries = [(None, 0)] * case.queries
    of_keys = [case.keys] if case.documents is None else list(case.documents)
    of_queries = case.query_documents or case.documents
    of_queries = [case.queries] if of_queries is None else list(of_queries)
    first_key = first_query = 0
    for document, (k, q) in enumerate(zip(of_keys, of_queries, strict=True)):
        for row in range(k):
            keys[first_key + row] = (document, first_key + row)
        for row in range(q):
            queries[first_query + row] = (document, first_key + k - (q - row))
        first_key, first_query = first_key + k, first_query + q
    return queries, keys


def multiset(case, head, query, keys):
    """Indexes of the keys that a query sees, once for each branch."""
    document, x = query
    seen = []
    for w, r in case.pairs or [(None, 1)]:
        for index, (its_document, j) in enumerate(keys):
            same = document is not None and document == its_document
            in_branch = w is None or prose.sees(x, j, w, r, prose.longnet_offset(head, case.heads, r), False)
            early = not case.is_causal or j <= x
            left, right = case.window or (None, None)
            near = (left is None or x - j <= left) and (right is None or j - x <= right)
            allowed = not case.masked or every_third_key_is_hidden(head, x, j)
            if same and in_branch and early and near and allowed:
                seen.append(index)
    return seen


def attend(case, query, key, value, sink):
    """out (batch, queries, heads, dim) and lse (batch, heads, queries) of torch tensors, key by key."""
    queries, keys = places(case)
    slopes, _ = case.per_head()
    scale = 1 / math.sqrt(query.shape[-1]) if case.scale is None else case.scale
    outs, lses = [], []
    for b in range(query.shape[0]):
        for h in range(case.heads):
            kv = h // case.group
            for i, place in enumerate(queries):
                terms, rows = [], []
                for index in multiset(case, h, place, keys):
                    s = scale * (query[b, i, h] * key[b, index, kv]).sum()
                    if case.softcap is not None:
                        s = case.softcap * torch.tanh(s / case.softcap)
                    if slopes is not None:
                        s = s - float(slopes[h]) * abs(place[1] - keys[index][1])
                    terms.append(s)
                    rows.append(value[b, index, kv])
                if sink is not None and sink[h] > -math.inf:
                    terms.append(sink[h])
                    rows.append(torch.zeros_like(value[b, :1, kv].sum(0)) if value.shape[1] else value.new_zeros(2))
                if terms:
                    weights = torch.softmax(torch.stack(terms), 0)
                    outs.append((weights[:, None] * torch.stack(rows)).sum(0))
                    lses.append(torch.logsumexp(torch.stack(terms), 0))
                else:
                    outs.append(value.new_zeros(value.shape[-1]))
                    lses.append(value.new_full((), -math.inf))
    shape = (query.shape[0], case.heads, len(queries))
    out = torch.stack(outs).reshape(*shape, -1) if outs else value.new_zeros((*shape, value.shape[-1]))
    lse = torch.stack(lses).reshape(shape) if lses else value.new_zeros(shape)
    return out.transpose(1, 2), lse


@st.composite
def cases(draw):
    documents = query_documents = pairs = None
    if draw(st.booleans()):
        documents = tuple(draw(st.lists(st.integers(0, 4), min_size=0, max_size=4)))
        left_over = draw(st.sampled_from([0, 0, 2]))
        keys = sum(documents) + left_over
        queries = keys
        if draw(st.booleans()):
            query_documents = tuple(draw(st.integers(0, 4)) for _ in documents)
            queries = sum(query_documents) + draw(st.sampled_from([0, 1]))
    else:
        keys = draw(st.integers(0, 8))
        queries = draw(st.one_of(st.just(keys), st.integers(0, 9)))
    if queries == keys and query_documents is None and draw(st.booleans()):
        pair = st.tuples(st.integers(1, keys + 2), st.integers(1, 4))
        pairs = tuple(draw(st.lists(pair, min_size=1, max_size=3)))
    bound = st.one_of(st.none(), st.integers(0, 4))
    return Case(
        queries=queries,
        keys=keys,
        pairs=pairs,
        documents=documents,
        query_documents=query_documents,
        window=draw(st.one_of(st.none(), st.tuples(bound, bound))),
        is_causal=draw(st.booleans()),
        masked=query_documents is None and queries <= keys and draw(st.booleans()),
        softcap=draw(st.sampled_from([None, 0.3, 5.0])),
        slopes=draw(st.booleans()),
        sink=draw(st.sampled_from([None, 0.0, 50.0, -50.0, -math.inf])),
        kv_heads=draw(st.integers(1, 2)),
        group=draw(st.integers(1, 2)),
        scale=draw(st.sampled_from([None, 0.0, -0.7])),
        seed=draw(st.integers(0, 99)),
    )
